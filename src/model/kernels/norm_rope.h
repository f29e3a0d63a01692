// RMSNorm and RoPE of a Llama layer (equations in model/layers.h):
//   ctxc::rms_norm(x, weight, eps) -> y                          differentiable in x and weight
//   ctxc::rope_qk(q, k, cos, sin, direction) -> (q, k)           differentiable in q and k; direction -1
//   turns back
// and below autograd ctxc::rms_norm_forward -> (y, 1 / rms) and ctxc::rms_norm_backward. On the CPU the
// differentiable ones are ATen expressions, whose numbers are those of the published models to the bit;
// elsewhere one kernel each, computed in float32 and rounded once.
#pragma once
#include <tuple>

#include "model/shapes.h"

namespace ctxc {

/// x [..., D], weight [D].
Tensor rms_norm_rows(const Tensor& x, const Tensor& weight_D, double eps);
/// q [P, H, E], k [P, G, E]; cos, sin [P, 1, E/2] in their type.
std::tuple<Tensor, Tensor> rope_qk(const Tensor& q_PHE, const Tensor& k_PGE, const Tensor& cos,
                                   const Tensor& sin, int64_t direction = 1);

/// The ATen expressions, for any device: what the kernels are compared with.
Tensor rms_norm_reference(const Tensor& x, const Tensor& weight_D, double eps);
Tensor rope_reference(const Tensor& x_PHE, const Tensor& cos, const Tensor& sin);

/// Through the forward and backward kernels on every device.
Tensor rms_norm_by_kernel(const Tensor& x, const Tensor& weight_D, double eps);
std::tuple<Tensor, Tensor> rope_qk_by_kernel(const Tensor& q_PHE, const Tensor& k_PGE, const Tensor& cos,
                                             const Tensor& sin, int64_t direction);

}  // namespace ctxc
