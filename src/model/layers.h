// The parts of a Llama layer that need no state:
//   RMSNorm   y = w * x / sqrt(mean(x^2) + eps)                              (Zhang and Sennrich, 2019)
//   SwiGLU    y = silu(gate) * up                                            (Shazeer, 2020)
//   RoPE      (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) on the halves of a head, angle = position *
//   frequency
//             (Su et al., 2021; "rotate-half" channel order), frequencies scaled as Llama-3.1 does when asked
#pragma once
#include "model/llama_config.h"
#include "model/lora.h"
#include "model/shapes.h"

namespace ctxc {

/// x [..., D] in any float type, computed in float32, returned in the type of x.
Tensor rms_norm(const Tensor& x, const Tensor& weight_D, double eps);

/// gate, up [..., F].
Tensor swiglu(const Tensor& gate, const Tensor& up);

/// What happens where a weight is stored in a narrower type than its input.
enum class Products {
  kWide,   ///< the weight is widened for the product and forgotten; backward widens it again instead of
           ///< keeping it
  kNarrow  ///< the input (in backward the gradient) is rounded to the weight's type, the result is widened
};
/// True where bfloat16 products are faster than float32 ones on this CPU (AVX512-BF16 or AMX).
bool cpu_multiplies_bfloat16();

/// x [..., in] times weight [out, in], plus the adapter's scale * B (A x), in the type of x.
Tensor adapted_linear(const Tensor& x, const Tensor& weight, const LoraPair* lora = nullptr,
                      Products products = Products::kWide);

/// What an adapter reads: x, in training with dropout, of the type of x.
Tensor lora_input(const Tensor& x, const LoraDropout& dropout);

/// [E/2] float32, after llama3 scaling.
Tensor rope_inverse_frequencies(const LlamaConfig& config);

/// Cosines and sines of P positions, [P, 1, E/2] each.
struct RopeTable {
  Tensor cos, sin;
};
RopeTable rope_table(const Tensor& inverse_frequencies, const Tensor& positions_P, at::ScalarType dtype);

/// x [P, heads, E].
Tensor apply_rope(const Tensor& x_PHE, const RopeTable& table);

/// Keys that RoPE has already turned, moved by `delta_N` positions (rotations add up: R(p + d) k = R(d) R(p)
/// k). key [..., N, E], delta int64 [N]. Angles, cosines and sines in float64, the product in float32, then
/// the type of the keys. Differentiable.
Tensor shift_keys(const Tensor& key, const Tensor& delta_N, const Tensor& inverse_frequencies);

}  // namespace ctxc
