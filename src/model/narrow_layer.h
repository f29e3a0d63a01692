// A frozen Llama layer on a CPU whose products are in bfloat16 while the residual stream stays float32
// (Products::kNarrow), with everything between two products in one pass over the numbers
// (model/kernels/narrow_rows.h). Values are rounded to bfloat16 where the unfused layer rounds them, so both
// agree but for the order of sums within a row and the last bit of e^x. With x float32 [P, D] and frozen
// bfloat16 weights:
//   normed_products     y_i = (w * x / rms(x)) W_i^T                bfloat16 [P, F_i]
//   narrow_rope         queries and keys turned by their positions   bfloat16
//   product_onto        x + a W^T                                    float32 [P, D]
//   swiglu_product_onto x + (silu(gate) * up) W^T                    float32 [P, D]
// and, where adapters need what lies between,
//   narrow_norm         w * x / rms(x)                               bfloat16 [P, D]
//   narrow_swiglu       silu(gate) * up                              bfloat16 [P, F]
//   narrow_adapted      x W^T + scale * (x A^T) B^T                  bfloat16 [P, F]; A and B are rounded for
//   it
// Differentiable in everything but the weights of the base.
#pragma once
#include <array>

#include "model/layers.h"

namespace ctxc {

/// Two or three products of one normalised input; an undefined weight gives no product.
std::array<Tensor, 3> normed_products(const Tensor& x_PD, const Tensor& norm_D, double eps,
                                      const std::array<Tensor, 3>& weights_FD);
/// x [P, H, E] bfloat16; cosines and sines float32 [P, 1, E/2].
Tensor narrow_rope(const Tensor& x_PHE, const RopeTable& table);
Tensor product_onto(const Tensor& x_PD, const Tensor& a_PF, const Tensor& weight_DF);
Tensor swiglu_product_onto(const Tensor& x_PD, const Tensor& gate_PF, const Tensor& up_PF,
                           const Tensor& weight_DF);

Tensor narrow_norm(const Tensor& x_PD, const Tensor& norm_D, double eps);
Tensor narrow_swiglu(const Tensor& gate_PF, const Tensor& up_PF);
/// `lora` may be null. x [P, D] bfloat16.
Tensor narrow_adapted(const Tensor& x_PD, const Tensor& weight_FD, const LoraPair* lora);

}  // namespace ctxc
