// Where the windows of a packed batch lie: windows of W positions, each cut into K runs, one slot a run
// (comprexit.md section 3, steps 1 and 2). A row's grid starts at its first token, or `lead` positions before
// it: the padded layout of the peer, whose rows carry their padding on the left.
#pragma once
#include <vector>

#include "model/shapes.h"

namespace ctxc {

/// One stretch of text with a grid of its own: a row of the batch, or a piece of it under map-reduce.
struct GridSpan {
  int64_t row = 0;     ///< of the batch
  int64_t offset = 0;  ///< packed index of the first token
  int64_t length = 0;  ///< tokens
  int64_t lead = 0;    ///< padding positions in front
  int64_t positions() const { return lead + length; }
};

struct WindowShape {
  int64_t window = 128;  ///< W
  int64_t ratio = 4;
  int64_t runs() const { return (window + ratio - 1) / ratio; }  ///< K
  /// Run that position w of a window belongs to: the first W mod K runs have one position more than the
  /// others.
  int64_t run_of(int64_t position) const;
  /// Slots of a text of this many tokens whose grid starts at its first token.
  int64_t slots_for(int64_t tokens) const;
};

/// N windows over P packed tokens; a row's windows stand side by side in the [B, columns] layout.
struct WindowGrid {
  WindowGrid(const std::vector<GridSpan>& spans, int64_t batch, int64_t packed_tokens, WindowShape shape,
             bool keep_empty, const at::Device& device);

  int64_t batch, columns = 0;  ///< columns: windows of the widest row
  int64_t windows() const { return token_NW.size(0); }
  Tensor token_NW;  ///< int64: packed index of each position; P where there is none
  Tensor real_NW;   ///< bool
  Tensor slot_P;    ///< int64: n * K + run of each packed token
  Tensor count_NK;  ///< float32: tokens of each run
  Tensor place_N;   ///< int64: row * columns + column of each window

  /// [N, ...] per window to [B, columns, ...]; windows that were left out are zero.
  Tensor spread(const Tensor& per_window) const;
};

}  // namespace ctxc
