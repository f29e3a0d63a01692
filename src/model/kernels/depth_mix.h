// Depth-wise gate and mix over hidden states h_0..h_S-1, each [P, D] in any float type and wherever it lies:
//   ctxc::weighted_states(weights, hidden) -> sum_l w_pl h_l [P, D]       differentiable in the weights
//   ctxc::state_products(g, hidden) -> g_p . h_pl [P, S]                  differentiable in g
//   ctxc::depth_gate_mix(pull, offset, hidden, scale) -> (w, x)           differentiable in pull and offset
//       w_pl = softmax_l( scale (pull_p . h_pl + offset_pl) ),  x_p = sum_l w_pl h_pl
//   its backward, with c_l = dL/dx . h_l + dL/dw_l:
//       dL/doffset_l = scale w_l (c_l - sum_m w_m c_m),  dL/dpull = sum_l dL/doffset_l h_l
// The states are constants here; sums are float32 (double where the states are). On the CPU tokens go by
// chunks whose sums stay in the cache while all states pass by; on CUDA a token's gate and mix are one
// kernel.
#pragma once
#include <tuple>
#include <vector>

#include "model/shapes.h"

namespace ctxc {

/// Weights [P, S] or, the same for every token, [1, S].
Tensor mix_states(const Tensor& weights_PS, const std::vector<Tensor>& hidden_PD);
Tensor multiply_states(const Tensor& g_PD, const std::vector<Tensor>& hidden_PD);
/// Weights [P, S] and mixed states [P, D].
std::tuple<Tensor, Tensor> gate_and_mix_states(const Tensor& pull_PD, const Tensor& offset_PS,
                                               const std::vector<Tensor>& hidden_PD, double scale);

}  // namespace ctxc
