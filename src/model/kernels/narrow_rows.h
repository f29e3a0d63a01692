// Loops between the bfloat16 products of a Llama layer on a CPU (model/narrow_layer.h), on raw memory;
// bfloat16 as its 16 bits, everything computed in float32 and rounded once (to nearest, ties to even).
// Compiled for AVX-512 where the compiler can: call them only where cpu_multiplies_bfloat16() is true. The
// equations are in model/layers.h.
#pragma once
#include <cstdint>

namespace ctxc::narrow {

/// y = w * x / rms(x) of every row, with 1 / rms [rows].
void norm(const float* x, const float* weight, uint16_t* y, float* inverse_rms, int64_t rows, int64_t width,
          float eps);

/// The gradient of x from up to three gradients of y that add up (undefined ones are null).
void norm_backward(const uint16_t* grad_a, const uint16_t* grad_b, const uint16_t* grad_c, const float* x,
                   const float* weight, const float* inverse_rms, float* grad_x, int64_t rows, int64_t width);

/// y = silu(gate) * up.
void swiglu(const uint16_t* gate, const uint16_t* up, uint16_t* y, int64_t count);
void swiglu_backward(const uint16_t* gate, const uint16_t* up, const uint16_t* grad_y, uint16_t* grad_gate,
                     uint16_t* grad_up, int64_t count);

/// Heads of `width` numbers turned by the angles whose cosines and sines [rows, width / 2] are given;
/// `direction` -1 turns back.
void rope(const uint16_t* x, const float* cos, const float* sin, uint16_t* y, int64_t rows, int64_t heads,
          int64_t width, float direction);

/// sum = x + y.
void add(const float* x, const uint16_t* y, float* sum, int64_t count);

}  // namespace ctxc::narrow
