// Block layouts of ggml-quants. A block holds 32 (Q4_0, Q4_1, Q8_0) or 256 (K types) weights w = scale * q [-
// minimum].
#include <bit>
#include <cstring>

#include "core/error.h"
#include "core/gguf.h"

namespace ctxc {
namespace {

/// Half to single precision without branches, so that loops over it vectorise: the exponent is re-biased by
/// one multiplication; subnormal halves come out of a subtraction from a magic constant.
inline float half_to_float(uint16_t half) {
  const uint32_t word = static_cast<uint32_t>(half) << 16, twice = word + word;
  const float normal = std::bit_cast<float>((twice >> 4) + (0xE0u << 23)) * 0x1.0p-112f;
  const float subnormal = std::bit_cast<float>((twice >> 17) | (126u << 23)) - 0.5f;
  const uint32_t magnitude =
      twice < (1u << 27) ? std::bit_cast<uint32_t>(subnormal) : std::bit_cast<uint32_t>(normal);
  return std::bit_cast<float>((word & 0x80000000u) | magnitude);
}

inline uint16_t word_at(const uint8_t* bytes) {
  return static_cast<uint16_t>(bytes[0] | bytes[1] << 8);
}
inline float half_at(const uint8_t* bytes) {
  return half_to_float(word_at(bytes));
}

void dequantize_q4_0(const uint8_t* block, float* out) {
  const float scale = half_at(block);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>((block[2 + i] & 15) - 8);
    out[i + 16] = scale * static_cast<float>((block[2 + i] >> 4) - 8);
  }
}

void dequantize_q4_1(const uint8_t* block, float* out) {
  const float scale = half_at(block), minimum = half_at(block + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = scale * static_cast<float>(block[4 + i] & 15) + minimum;
    out[i + 16] = scale * static_cast<float>(block[4 + i] >> 4) + minimum;
  }
}

void dequantize_q8_0(const uint8_t* block, float* out) {
  const float scale = half_at(block);
  for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(static_cast<int8_t>(block[2 + i]));
}

/// Scale and minimum of group `group` (0..7) of Q4_K and Q5_K: 6 bits each, packed into 12 bytes.
struct GroupScale {
  int scale, minimum;
};
inline GroupScale group_scale(const uint8_t* packed, int group) {
  if (group < 4) return {packed[group] & 63, packed[group + 4] & 63};
  return {(packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4,
          (packed[group + 4] >> 4) | (packed[group] >> 6) << 4};
}

/// Q4_K: half scale, half minimum, 12 bytes of group scales, 128 bytes of nibbles. Q5_K: 32 bytes of fifth
/// bits before.
template <bool kFifthBit>
void dequantize_k(const uint8_t* block, float* out) {
  const float scale = half_at(block), minimum = half_at(block + 2);
  const uint8_t* packed = block + 4;
  const uint8_t* high = block + 16;
  const uint8_t* low = high + (kFifthBit ? 32 : 0);
  for (int pair = 0; pair < 4; ++pair, low += 32, out += 64) {
    const GroupScale first = group_scale(packed, 2 * pair), second = group_scale(packed, 2 * pair + 1);
    const float scale1 = scale * static_cast<float>(first.scale),
                minimum1 = minimum * static_cast<float>(first.minimum);
    const float scale2 = scale * static_cast<float>(second.scale),
                minimum2 = minimum * static_cast<float>(second.minimum);
    for (int i = 0; i < 32; ++i) {
      const int fifth1 = kFifthBit ? (high[i] >> (2 * pair) & 1) << 4 : 0;
      const int fifth2 = kFifthBit ? (high[i] >> (2 * pair + 1) & 1) << 4 : 0;
      out[i] = scale1 * static_cast<float>((low[i] & 15) | fifth1) - minimum1;
      out[i + 32] = scale2 * static_cast<float>((low[i] >> 4) | fifth2) - minimum2;
    }
  }
}

/// Q6_K: 128 bytes of low nibbles, 64 bytes of two high bits, 16 signed group scales, half scale.
void dequantize_q6_k(const uint8_t* block, float* out) {
  const uint8_t* low = block;
  const uint8_t* high = block + 128;
  const uint8_t* groups = block + 192;
  const float scale = half_at(block + 208);
  for (int half = 0; half < 2; ++half, low += 64, high += 32, groups += 8, out += 128) {
    for (int part = 0; part < 2; ++part) {  // 16 values share a scale
      float scales[4];
      for (int k = 0; k < 4; ++k)
        scales[k] = scale * static_cast<float>(static_cast<int8_t>(groups[part + 2 * k]));
      for (int i = 16 * part; i < 16 * part + 16; ++i) {
        out[i] = scales[0] * static_cast<float>(((low[i] & 15) | (high[i] & 3) << 4) - 32);
        out[i + 32] = scales[1] * static_cast<float>(((low[i + 32] & 15) | (high[i] >> 2 & 3) << 4) - 32);
        out[i + 64] = scales[2] * static_cast<float>(((low[i] >> 4) | (high[i] >> 4 & 3) << 4) - 32);
        out[i + 96] = scales[3] * static_cast<float>(((low[i + 32] >> 4) | (high[i] >> 6) << 4) - 32);
      }
    }
  }
}

template <int kValues, int kBytes, void (*kDequantize)(const uint8_t*, float*)>
void for_blocks(std::span<const std::byte> bytes, std::span<float> out) {
  const auto* block = reinterpret_cast<const uint8_t*>(bytes.data());
  float* values = out.data();
  for (size_t i = 0; i < out.size() / kValues; ++i, block += kBytes, values += kValues)
    kDequantize(block, values);
}

}  // namespace

void dequantize(const GgufTensor& tensor, std::span<float> out) {
  CTXC_CHECK(static_cast<int64_t>(out.size()) == tensor.numel(), ErrorKind::kInternal, "",
             "dequantize: room for {} values, expected {}", out.size(), tensor.numel());
  const auto* words = reinterpret_cast<const uint8_t*>(tensor.bytes.data());
  switch (tensor.type) {
    case GgufType::kF32:
      if (!out.empty()) std::memcpy(out.data(), words, out.size() * sizeof(float));
      return;
    case GgufType::kF16:
      for (size_t i = 0; i < out.size(); ++i) out[i] = half_at(words + 2 * i);
      return;
    case GgufType::kBF16:
      for (size_t i = 0; i < out.size(); ++i)
        out[i] = std::bit_cast<float>(static_cast<uint32_t>(word_at(words + 2 * i)) << 16);
      return;
    case GgufType::kQ4_0:
      return for_blocks<32, 18, dequantize_q4_0>(tensor.bytes, out);
    case GgufType::kQ4_1:
      return for_blocks<32, 20, dequantize_q4_1>(tensor.bytes, out);
    case GgufType::kQ8_0:
      return for_blocks<32, 34, dequantize_q8_0>(tensor.bytes, out);
    case GgufType::kQ4_K:
      return for_blocks<256, 144, dequantize_k<false>>(tensor.bytes, out);
    case GgufType::kQ5_K:
      return for_blocks<256, 176, dequantize_k<true>>(tensor.bytes, out);
    case GgufType::kQ6_K:
      return for_blocks<256, 210, dequantize_q6_k>(tensor.bytes, out);
  }
  throw Error(ErrorKind::kInternal,
              fmt::format("dequantize: unknown type {}", static_cast<uint32_t>(tensor.type)));
}

}  // namespace ctxc
