#include "model/blocks/bit_rows.h"

#include <algorithm>
#include <vector>

#include "core/error.h"

namespace ctxc {
namespace {

/// Shift of each code inside its byte: [8 / bits].
Tensor shifts(int64_t bits, const Tensor& like) {
  return at::arange(0, 8, bits, like.options().dtype(at::kInt));
}

/// Codes [..., n] (int32) -> bytes [..., ceil(n bits / 8)].
Tensor packed(const Tensor& codes, int64_t bits) {
  const int64_t each = 8 / bits, length = codes.size(-1);
  const Tensor filled = at::constant_pad_nd(codes, {0, (each - length % each) % each});
  const Tensor bytes = filled.unflatten(-1, {-1, each}) * at::pow(2, shifts(bits, codes));
  return bytes.sum(-1).to(at::kByte);
}

Tensor unpacked_codes(const Tensor& bytes, int64_t bits, int64_t length) {
  const Tensor divided = bytes.to(at::kInt).unsqueeze(-1).bitwise_right_shift(shifts(bits, bytes));
  return divided.bitwise_and((1 << bits) - 1).flatten(-2).narrow(-1, 0, length);
}

int64_t bytes_of(int64_t entries, int64_t bits) {
  return (entries * bits + 7) / 8;
}

}  // namespace

BitRows pack_bits(const Tensor& exact, int64_t dimension, int64_t bits, int64_t group) {
  CTXC_CHECK(bits == 1 || bits == 2 || bits == 4 || bits == 8, ErrorKind::kInternal, "",
             "pack_bits: found {} bits, expected 1, 2, 4 or 8", bits);
  CTXC_CHECK(group > 0, ErrorKind::kInternal, "", "pack_bits: found groups of {}, expected at least 1",
             group);
  const Tensor rows = exact.to(at::kFloat).movedim(dimension, -1);
  BitRows result{.bits = bits, .group = group, .dimension = dimension, .length = rows.size(-1)};
  const int64_t highest = (1 << bits) - 1;
  std::vector<Tensor> codes, scales, zeros;
  for (int64_t first = 0; first < result.length; first += group) {
    const Tensor part = rows.narrow(-1, first, std::min(group, result.length - first));
    Tensor low = part.amin(-1, true), high = part.amax(-1, true);
    if (bits == 1) {
      const Tensor mean = part.mean(-1, true), spread = (part - mean).abs().mean(-1, true);
      low = mean - spread;
      high = mean + spread;
    }
    zeros.push_back(low.to(at::kHalf));
    scales.push_back(((high - low) / highest).to(at::kHalf));
    // A group of equal numbers has no scale: every code stands for its zero.
    const Tensor scale = scales.back().to(at::kFloat);
    const Tensor steps = (part - zeros.back().to(at::kFloat)) / at::where(scale > 0, scale, 1.0);
    codes.push_back(packed(steps.round().clamp(0, highest).to(at::kInt), bits));
  }
  result.codes = at::cat(codes, -1);
  result.scale = at::cat(scales, -1);
  result.zero = at::cat(zeros, -1);
  return result;
}

int64_t BitRows::bytes() const {
  return codes.numel() + 2 * (scale.numel() + zero.numel());
}

Tensor BitRows::unpacked() const {
  std::vector<Tensor> parts;
  int64_t byte = 0;
  for (int64_t first = 0, number = 0; first < length; first += group, ++number) {
    const int64_t entries = std::min(group, length - first), bytes = bytes_of(entries, bits);
    const Tensor steps = unpacked_codes(codes.narrow(-1, byte, bytes), bits, entries);
    parts.push_back(steps * scale.narrow(-1, number, 1).to(at::kFloat) +
                    zero.narrow(-1, number, 1).to(at::kFloat));
    byte += bytes;
  }
  return at::cat(parts, -1).movedim(-1, dimension);
}

}  // namespace ctxc
