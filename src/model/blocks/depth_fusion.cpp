#include "model/blocks/depth_fusion.h"

#include <algorithm>
#include <cmath>

#include "model/kernels/depth_mix.h"

namespace ctxc {
namespace {

bool needs_gradient(const std::vector<Tensor>& hidden_PD) {
  return std::any_of(hidden_PD.begin(), hidden_PD.end(), [](const Tensor& h) { return h.requires_grad(); });
}

}  // namespace

Tensor weighted_states(const Tensor& weights_PS, const std::vector<Tensor>& hidden_PD) {
  if (!needs_gradient(hidden_PD)) return mix_states(weights_PS, hidden_PD);
  Tensor sum_PD;
  for (size_t l = 0; l < hidden_PD.size(); ++l) {
    const Tensor term_PD = weights_PS.narrow(1, static_cast<int64_t>(l), 1) * hidden_PD[l].to(at::kFloat);
    sum_PD = l == 0 ? term_PD : sum_PD + term_PD;
  }
  return sum_PD;
}

Tensor state_products(const Tensor& g_PD, const std::vector<Tensor>& hidden_PD) {
  if (!needs_gradient(hidden_PD)) return multiply_states(g_PD, hidden_PD);
  std::vector<Tensor> columns;
  for (const Tensor& h_PD : hidden_PD) columns.push_back((g_PD * h_PD.to(at::kFloat)).sum(1));
  return at::stack(columns, 1);
}

DepthResult fuse_depth(const std::vector<Tensor>& hidden_PD, const DepthParameters& parameters,
                       double temperature) {
  const Tensor p_1S = parameters.query_fusion_weights.softmax(0).unsqueeze(0);
  const Tensor q_PG = linear(weighted_states(p_1S, hidden_PD), *parameters.layer_fusion_q_prj).to(at::kFloat);
  const Tensor offsets_SG = parameters.layer_fusion_layer_embeddings + parameters.layer_fusion_k_prj->bias;
  const Tensor pull_PD = at::matmul(q_PG, parameters.layer_fusion_k_prj->weight).to(at::kFloat);
  const Tensor offset_PS = at::matmul(q_PG, offsets_SG.t()).to(at::kFloat);
  const double scale = 1 / (std::sqrt(static_cast<double>(offsets_SG.size(1))) * temperature);
  Tensor weights_PS, mixed_PD;
  if (needs_gradient(hidden_PD)) {
    weights_PS = ((state_products(pull_PD, hidden_PD) + offset_PS) * scale).softmax(1);
    mixed_PD = weighted_states(weights_PS, hidden_PD);
  } else {
    std::tie(weights_PS, mixed_PD) = gate_and_mix_states(pull_PD, offset_PS, hidden_PD, scale);
  }
  return {linear(mixed_PD, *parameters.layer_fusion_v_prj).to(at::kFloat), weights_PS};
}

}  // namespace ctxc
