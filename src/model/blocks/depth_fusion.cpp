#include "model/blocks/depth_fusion.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>

namespace ctxc {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kChunk = 128;  // tokens whose sums stay in the cache while all layers pass by

bool needs_gradient(const std::vector<Tensor>& hidden_PD) {
  return std::any_of(hidden_PD.begin(), hidden_PD.end(), [](const Tensor& h) { return h.requires_grad(); });
}

/// sum_l w_pl h_l; weights [P, S] float32 (stride 0 over P for a common one).
Tensor sum_kernel(const Tensor& weights_PS, const std::vector<Tensor>& hidden_PD) {
  const int64_t tokens = hidden_PD[0].size(0);
  Tensor result = at::empty({tokens, hidden_PD[0].size(1)}, weights_PS.options());
  at::parallel_for(0, tokens, kChunk, [&](int64_t begin, int64_t end) {
    at::NoGradGuard guard;
    for (int64_t first = begin; first < end; first += kChunk) {
      const int64_t last = std::min(first + kChunk, end);
      Tensor out = result.slice(0, first, last);
      for (size_t l = 0; l < hidden_PD.size(); ++l) {
        const Tensor h = hidden_PD[l].slice(0, first, last).to(at::kFloat);
        const Tensor w = weights_PS.slice(0, first, last).narrow(1, static_cast<int64_t>(l), 1);
        if (l == 0)
          at::mul_out(out, h, w);
        else
          out.addcmul_(h, w);
      }
    }
  });
  return result;
}

/// g_p . h_pl
Tensor product_kernel(const Tensor& g_PD, const std::vector<Tensor>& hidden_PD) {
  const int64_t tokens = g_PD.size(0);
  Tensor result = at::empty({tokens, static_cast<int64_t>(hidden_PD.size())}, g_PD.options());
  at::parallel_for(0, tokens, kChunk, [&](int64_t begin, int64_t end) {
    at::NoGradGuard guard;
    Tensor product = at::empty({std::min(kChunk, end - begin), g_PD.size(1)}, g_PD.options());
    for (int64_t first = begin; first < end; first += kChunk) {
      const int64_t last = std::min(first + kChunk, end);
      const Tensor g = g_PD.slice(0, first, last);
      Tensor buffer = product.slice(0, 0, last - first);
      for (size_t l = 0; l < hidden_PD.size(); ++l) {
        at::mul_out(buffer, g, hidden_PD[l].slice(0, first, last).to(at::kFloat));
        Tensor out = result.slice(0, first, last).select(1, static_cast<int64_t>(l));
        at::sum_out(out, buffer, at::IntArrayRef{1});
      }
    }
  });
  return result;
}

/// Backward of a weighted sum over constant states is a row of products, and the reverse.
class WeightedStates : public torch::autograd::Function<WeightedStates> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& weights_PS, const variable_list& hidden_PD) {
    ctx->save_for_backward(hidden_PD);
    ctx->saved_data["common"] = weights_PS.size(0) == 1;
    return sum_kernel(weights_PS.expand({hidden_PD[0].size(0), weights_PS.size(1)}), hidden_PD);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list hidden_PD = ctx->get_saved_variables();
    Tensor grad_PS = product_kernel(grads[0].contiguous(), hidden_PD);
    variable_list result(1 + hidden_PD.size());
    result[0] = ctx->saved_data["common"].toBool() ? grad_PS.sum(0, /*keepdim=*/true) : grad_PS;
    return result;
  }
};

class StateProducts : public torch::autograd::Function<StateProducts> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& g_PD, const variable_list& hidden_PD) {
    ctx->save_for_backward(hidden_PD);
    return product_kernel(g_PD, hidden_PD);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list hidden_PD = ctx->get_saved_variables();
    variable_list result(1 + hidden_PD.size());
    result[0] = sum_kernel(grads[0].contiguous(), hidden_PD);
    return result;
  }
};

}  // namespace

Tensor weighted_states(const Tensor& weights_PS, const std::vector<Tensor>& hidden_PD) {
  if (!needs_gradient(hidden_PD) && hidden_PD[0].is_cpu())
    return WeightedStates::apply(weights_PS, hidden_PD);
  Tensor sum_PD;
  for (size_t l = 0; l < hidden_PD.size(); ++l) {
    const Tensor term_PD = weights_PS.narrow(1, static_cast<int64_t>(l), 1) * hidden_PD[l].to(at::kFloat);
    sum_PD = l == 0 ? term_PD : sum_PD + term_PD;
  }
  return sum_PD;
}

Tensor state_products(const Tensor& g_PD, const std::vector<Tensor>& hidden_PD) {
  if (!needs_gradient(hidden_PD) && hidden_PD[0].is_cpu()) return StateProducts::apply(g_PD, hidden_PD);
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
  const Tensor score_PS = state_products(pull_PD, hidden_PD) + at::matmul(q_PG, offsets_SG.t());
  const double scale = 1 / (std::sqrt(static_cast<double>(offsets_SG.size(1))) * temperature);
  const Tensor weights_PS = (score_PS * scale).softmax(1);
  return {linear(weighted_states(weights_PS, hidden_PD), *parameters.layer_fusion_v_prj).to(at::kFloat),
          weights_PS};
}

}  // namespace ctxc
