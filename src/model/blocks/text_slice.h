// A stretch of every row of a packed batch, on a padded grid: what a method reads at a time of a text that is
// longer. A row's slice c holds its tokens [c n, (c+1) n), n = slice length. Positions count from the slice's
// first token, so that they stay small while a text streams by.
#pragma once
#include "model/blocks/local_attention.h"
#include "model/compressor.h"

namespace ctxc {

struct TextSlice {
  int64_t index = 0;
  std::vector<int64_t> lengths;  ///< tokens of each row in this slice; may be 0
  Tensor x_BND;                  ///< rows of what was given; 0 where there is no token
  Places tokens;                 ///< positions from the slice's first token, sizes 1
  Tensor last_B1;                ///< position of the row's last token
  Tensor packed_BN;              ///< int64: packed index of each token; P where there is none
  /// The same places counted from the row's last token (<= 0).
  Places from_the_end(const Places& places) const;
};

/// The keys that methods which read slices share: compressor.chunk, ratio, width and heads. Error kUsage.
void check_slices(int64_t chunk, int64_t ratio, int64_t width, int64_t heads, const LlamaConfig& backbone);
/// Slices of `length` tokens that the longest row has.
int64_t slices_of(const Context& context, int64_t length);
/// Slice `index` of x [P, d]; its columns are a multiple of `multiple`.
TextSlice cut_slice(const Context& context, const Tensor& x_PD, int64_t length, int64_t index,
                    int64_t multiple);
/// unit_rms of the input embeddings [B, K, D] of the tokens in these columns of a slice, int64 [B, K]; zeros
/// where a column has none. What `init: residual` starts from.
Tensor embeddings_at(const Context& context, const TextSlice& slice, const Tensor& column_BK);

}  // namespace ctxc
