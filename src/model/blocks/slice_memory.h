// What `progressive` keeps of the slices it has read, row by row: the buffer U, and blocks of latents of
// which the decoder reads so many that slots + buffer stay within ceil(N / r) (progressive.md sections 2 and
// 3).
//   M = min(M_U, floor(ceil(N / r) / 4)) vectors of U with several slices, none with one; M = min(M_U,
//   ceil(N / r)) where no slots are kept. What exceeds the budget (e vectors) is paid for by merging the 2e
//   oldest slots in pairs.
// slots: log keeps blocks like a binary counter: after the n-th slice as many merges of the two newest blocks
// as n has trailing zero bits, so popcount(n) blocks are left, at most M_c (1 + log2 n) vectors, M_c = chunk
// / r.
#pragma once
#include <optional>
#include <vector>

#include "model/blocks/ordered_merge.h"
#include "model/blocks/slot_head.h"
#include "model/blocks/text_slice.h"
#include "model/compressor.h"

namespace ctxc {

/// What is kept.
struct MemoryRule {
  int64_t ratio = 4;
  int64_t state = 0;              ///< vectors of the buffer; 0 = none
  std::optional<int64_t> slices;  ///< the last so many; none = all
  bool logarithmic = false;
  /// Vectors of the buffer that a row of `tokens` tokens in `count` slices reads.
  int64_t buffer_vectors(int64_t tokens, int64_t count) const;
  /// Slots and buffer vectors of a row whose slices have `slice_tokens` tokens, the last one what is left.
  int64_t vectors_for(int64_t tokens, int64_t slice_tokens) const;
};

/// Latents of one slice, or of several that were merged.
struct LatentBlock {
  Tensor y_KD, position_K, size_K;  ///< float; positions in source tokens from the text's beginning
  int64_t level = 0;                ///< merges it went through
};

/// Of all rows of a batch.
class SliceMemory {
 public:
  /// `merge` is needed where blocks are merged. `in`: a saved state or empty. Error kUsage where it is not of
  /// this method and batch, or the text in front ended inside a slice of `slice_tokens`.
  SliceMemory(MemoryRule rule, int64_t batch, const PairPool* merge, const State& in, int64_t slice_tokens);

  const std::vector<int64_t>& tokens() const { return tokens_; }  ///< read so far, of each row
  Tensor buffer_BMD;                                              ///< undefined before the first slice
  /// Number of the update of the buffer that a slice of these lengths brings, float [B].
  Tensor next_update(const std::vector<int64_t>& lengths, const Tensor& like);
  /// The latents of a slice join, ceil(tokens / ratio) of each row; `places` count from the slice's last
  /// token. Rows without tokens stay as they are.
  void add(const TextSlice& slice, const Tensor& y_BKD, const Places& places);

  struct View {
    Tensor y_BKD, position_BK, mask_BK;  ///< latents to be read, padded; positions as in LatentBlock
    Tensor buffer_mask_BM;               ///< bool [B, M]: which of the first M vectors of U each row reads
  };
  View view() const;
  State state() const;

 private:
  void load(const State& in, int64_t slice_tokens);
  LatentBlock merge_pairs(const std::vector<LatentBlock>& blocks, int64_t level) const;
  LatentBlock row_latents(size_t row) const;

  MemoryRule rule_;
  const PairPool* merge_;
  std::vector<int64_t> tokens_, slices_, updates_;
  std::vector<std::vector<LatentBlock>> blocks_;
};

/// What the decoder reads of it: the first vectors of the state through `state_head`, then the slots through
/// `slot_head`; each may be none where the rule reads none. `spread`: see lay_out_slots.
Memory lay_out_memory(const Context& context, const CompressorSetup& setup, const SliceMemory& memory,
                      bool sink, const SlotHead* slot_head, const SlotHead* state_head, bool spread);

}  // namespace ctxc
