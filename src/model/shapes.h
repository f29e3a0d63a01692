// The legend of shape suffixes (tensor names end in their shape):
//   B batch   N context tokens   T decoder tokens   K slots   L layers   S hidden states (L + 1)   D model
//   width H query heads   G key/value heads   E head width   F feed-forward width   V vocabulary   R adapter
//   rank P tokens of a packed batch (all rows one after another, no padding)   M supervised tokens   W window
//   C chunk
// A packed batch is a [P, …] tensor and the offsets of its rows: row b is [offset_b, offset_b + length_b).
#pragma once
#include <ATen/ATen.h>

namespace ctxc {
using at::Tensor;
}
