// No header of the standard library with code in it may be included here: its inline functions, compiled for
// AVX-512, could be the copies that the linker keeps for the whole program.
#include "model/kernels/narrow_rows.h"

namespace ctxc::narrow {
namespace {

inline float bits_to_float(uint32_t bits) {
  return __builtin_bit_cast(float, bits);
}
inline uint32_t float_to_bits(float value) {
  return __builtin_bit_cast(uint32_t, value);
}
inline float widen(uint16_t value) {
  return bits_to_float(static_cast<uint32_t>(value) << 16);
}
inline uint16_t round_to_bf16(float value) {
  const uint32_t bits = float_to_bits(value);
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  return static_cast<uint16_t>(value == value ? rounded : 0x7FC0);
}

/// e^x for x <= 0, relative error below 2e-7; 0 below -87. Cephes' polynomial, written without branches.
inline float exp_of_negative(float x) {
  const float bounded = x < -87.0f ? -87.0f : x;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = bounded * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const float power = bits_to_float((float_to_bits(shifted) - float_to_bits(kRound) + 127u) << 23);
  return x < -87.0f ? 0.0f : p * power;
}

inline float sigmoid(float x) {
  const float small = exp_of_negative(x < 0 ? x : -x);  // e^-|x|
  const float share = 1.0f / (1.0f + small);
  return x < 0 ? small * share : share;
}

}  // namespace

void norm(const float* x, const float* weight, uint16_t* y, float* inverse_rms, int64_t rows, int64_t width,
          float eps) {
  for (int64_t row = 0; row < rows; ++row, x += width, y += width) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) sum += x[i] * x[i];
    const float inverse = 1.0f / __builtin_sqrtf(sum / static_cast<float>(width) + eps);
    inverse_rms[row] = inverse;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) y[i] = round_to_bf16(x[i] * inverse * weight[i]);
  }
}

void norm_backward(const uint16_t* grad_a, const uint16_t* grad_b, const uint16_t* grad_c, const float* x,
                   const float* weight, const float* inverse_rms, float* grad_x, int64_t rows,
                   int64_t width) {
  for (int64_t row = 0; row < rows; ++row, x += width, grad_x += width) {
    const int64_t first = row * width;
    float along = 0;
    if (grad_a && grad_b && grad_c) {
#pragma omp simd reduction(+ : along)
      for (int64_t i = 0; i < width; ++i) {
        grad_x[i] =
            (widen(grad_a[first + i]) + widen(grad_b[first + i]) + widen(grad_c[first + i])) * weight[i];
        along += grad_x[i] * x[i];
      }
    } else {
      for (int64_t i = 0; i < width; ++i) grad_x[i] = 0;
      const uint16_t* const grads[] = {grad_a, grad_b, grad_c};
      for (const uint16_t* grad : grads) {
        if (!grad) continue;
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) grad_x[i] += widen(grad[first + i]);
      }
#pragma omp simd reduction(+ : along)
      for (int64_t i = 0; i < width; ++i) {
        grad_x[i] *= weight[i];
        along += grad_x[i] * x[i];
      }
    }
    const float inverse = inverse_rms[row];
    const float share = along / static_cast<float>(width) * inverse * inverse * inverse;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) grad_x[i] = grad_x[i] * inverse - x[i] * share;
  }
}

void swiglu(const uint16_t* gate, const uint16_t* up, uint16_t* y, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float g = widen(gate[i]);
    y[i] = round_to_bf16(g * sigmoid(g) * widen(up[i]));
  }
}

void swiglu_backward(const uint16_t* gate, const uint16_t* up, const uint16_t* grad_y, uint16_t* grad_gate,
                     uint16_t* grad_up, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const float g = widen(gate[i]), pulled = widen(grad_y[i]), s = sigmoid(g);
    grad_gate[i] = round_to_bf16(pulled * widen(up[i]) * s * (1.0f + g * (1.0f - s)));
    grad_up[i] = round_to_bf16(pulled * g * s);
  }
}

void rope(const uint16_t* x, const float* cos, const float* sin, uint16_t* y, int64_t rows, int64_t heads,
          int64_t width, float direction) {
  const int64_t half = width / 2;
  for (int64_t row = 0; row < rows; ++row, cos += half, sin += half)
    for (int64_t head = 0; head < heads; ++head, x += width, y += width) {
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float first = widen(x[i]), second = widen(x[half + i]), turn = direction * sin[i];
        y[i] = round_to_bf16(first * cos[i] - second * turn);
        y[half + i] = round_to_bf16(second * cos[i] + first * turn);
      }
    }
}

void add(const float* x, const uint16_t* y, float* sum, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) sum[i] = x[i] + widen(y[i]);
}

}  // namespace ctxc::narrow
