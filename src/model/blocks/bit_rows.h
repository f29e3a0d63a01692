// Numbers in 1, 2, 4 or 8 bits, in groups along one dimension, each group with a scale and a zero of its own
// (asymmetric rounding as in KIVI, arXiv 2402.02750):
//   b > 1   zero = min, scale = (max - min) / (2^b - 1), code = round((x - zero) / scale)
//   b = 1   the two levels mean -+ mean |x - mean|: of two levels min and max lose more than half of a
//   Gaussian
// scale and zero are float16, and codes are made for their rounded values. Codes of a group fill whole bytes.
#pragma once
#include "model/shapes.h"

namespace ctxc {

struct BitRows {
  int64_t bits = 0, group = 0, dimension = 0;
  int64_t length = 0;  ///< of the dimension; its last group may be shorter
  Tensor codes = {};   ///< uint8: the shape with `dimension` moved to the end, there the bytes of all groups
  Tensor scale = {}, zero = {};  ///< float16: the same with one number a group
  int64_t bytes() const;
  /// The numbers as a reader gets them, float32, in the shape they had.
  Tensor unpacked() const;
};

/// `bits`: 1, 2, 4 or 8; groups of `group` entries along `dimension`.
BitRows pack_bits(const Tensor& exact, int64_t dimension, int64_t bits, int64_t group);

}  // namespace ctxc
