#include "model/kernels/depth_mix.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>

#include "model/kernels/operator.h"

namespace ctxc {
namespace {

using at::TensorList;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr int64_t kChunk = 128;  // tokens whose sums stay in the cache while all layers pass by

at::ScalarType wide(const Tensor& state) {
  return state.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// Weights [P, S] or [1, S].
Tensor sum_cpu(const Tensor& weights_PS, TensorList hidden_PD) {
  const int64_t tokens = hidden_PD[0].size(0);
  const Tensor all_PS = weights_PS.expand({tokens, weights_PS.size(1)});
  Tensor result = at::empty({tokens, hidden_PD[0].size(1)}, weights_PS.options());
  at::parallel_for(0, tokens, kChunk, [&](int64_t begin, int64_t end) {
    at::NoGradGuard guard;
    for (int64_t first = begin; first < end; first += kChunk) {
      const int64_t last = std::min(first + kChunk, end);
      Tensor out = result.slice(0, first, last);
      for (size_t l = 0; l < hidden_PD.size(); ++l) {
        const Tensor h = hidden_PD[l].slice(0, first, last).to(wide(hidden_PD[l]));
        const Tensor w = all_PS.slice(0, first, last).narrow(1, static_cast<int64_t>(l), 1);
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
Tensor products_cpu(const Tensor& g_PD, TensorList hidden_PD) {
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
        at::mul_out(buffer, g, hidden_PD[l].slice(0, first, last).to(wide(hidden_PD[l])));
        Tensor out = result.slice(0, first, last).select(1, static_cast<int64_t>(l));
        at::sum_out(out, buffer, at::IntArrayRef{1});
      }
    }
  });
  return result;
}

std::tuple<Tensor, Tensor> gate_mix_cpu(const Tensor& pull_PD, const Tensor& offset_PS, TensorList hidden_PD,
                                        double scale) {
  const Tensor weights_PS = ((products_cpu(pull_PD, hidden_PD) + offset_PS) * scale).softmax(1);
  return {weights_PS, sum_cpu(weights_PS, hidden_PD)};
}

std::tuple<Tensor, Tensor> gate_mix_backward_cpu(const Tensor& grad_mixed_PD,
                                                 const std::optional<Tensor>& grad_weights_PS,
                                                 const Tensor& weights_PS, TensorList hidden_PD,
                                                 double scale) {
  Tensor grad_PS = products_cpu(grad_mixed_PD.contiguous(), hidden_PD);
  if (grad_weights_PS) grad_PS = grad_PS + *grad_weights_PS;
  const Tensor grad_offset_PS =
      at::_softmax_backward_data(grad_PS, weights_PS, 1, weights_PS.scalar_type()) * scale;
  return {grad_offset_PS, sum_cpu(grad_offset_PS, hidden_PD)};
}

Tensor sum_meta(const Tensor& weights_PS, TensorList hidden_PD) {
  return at::empty({hidden_PD[0].size(0), hidden_PD[0].size(1)}, weights_PS.options());
}
Tensor products_meta(const Tensor& g_PD, TensorList hidden_PD) {
  return at::empty({g_PD.size(0), static_cast<int64_t>(hidden_PD.size())}, g_PD.options());
}
std::tuple<Tensor, Tensor> gate_mix_meta(const Tensor& pull_PD, const Tensor& offset_PS, TensorList, double) {
  return {at::empty_like(offset_PS), at::empty_like(pull_PD)};
}
std::tuple<Tensor, Tensor> gate_mix_backward_meta(const Tensor& grad_mixed_PD, const std::optional<Tensor>&,
                                                  const Tensor& weights_PS, TensorList, double) {
  return {at::empty_like(weights_PS), at::empty_like(grad_mixed_PD)};
}

std::tuple<Tensor, Tensor> call_backward(const Tensor& grad_mixed_PD,
                                         const std::optional<Tensor>& grad_weights_PS,
                                         const Tensor& weights_PS, TensorList hidden_PD, double scale) {
  static const auto op =
      find_operator<std::tuple<Tensor, Tensor>(const Tensor&, const std::optional<Tensor>&, const Tensor&,
                                               TensorList, double)>("ctxc::depth_gate_mix_backward");
  return op.call(grad_mixed_PD, grad_weights_PS, weights_PS, hidden_PD, scale);
}

/// Backward of a weighted sum over constant states is a row of products, and the reverse.
class WeightedStates : public torch::autograd::Function<WeightedStates> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& weights_PS, const variable_list& hidden_PD) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward(hidden_PD);
    ctx->saved_data["common"] = weights_PS.size(0) == 1;
    return mix_states(weights_PS, hidden_PD);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list hidden_PD = ctx->get_saved_variables();
    Tensor grad_PS = multiply_states(grads[0].contiguous(), hidden_PD);
    variable_list result(1 + hidden_PD.size());
    result[0] = ctx->saved_data["common"].toBool() ? grad_PS.sum(0, /*keepdim=*/true) : grad_PS;
    return result;
  }
};

class StateProducts : public torch::autograd::Function<StateProducts> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& g_PD, const variable_list& hidden_PD) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward(hidden_PD);
    return multiply_states(g_PD, hidden_PD);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list hidden_PD = ctx->get_saved_variables();
    variable_list result(1 + hidden_PD.size());
    result[0] = mix_states(grads[0].contiguous(), hidden_PD);
    return result;
  }
};

class DepthGateMix : public torch::autograd::Function<DepthGateMix> {
 public:
  static variable_list forward(AutogradContext* ctx, const Tensor& pull_PD, const Tensor& offset_PS,
                               const variable_list& hidden_PD, double scale) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [weights_PS, mixed_PD] = gate_and_mix_states(pull_PD, offset_PS, hidden_PD, scale);
    variable_list saved = {weights_PS};
    saved.insert(saved.end(), hidden_PD.begin(), hidden_PD.end());
    ctx->save_for_backward(saved);
    ctx->set_materialize_grads(false);
    ctx->saved_data["scale"] = scale;
    return {weights_PS, mixed_PD};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list hidden_PD = ctx->get_saved_variables();
    const Tensor weights_PS = hidden_PD.front();
    hidden_PD.erase(hidden_PD.begin());
    variable_list result(2 + hidden_PD.size() + 1);
    if (!grads[0].defined() && !grads[1].defined()) return result;
    const Tensor grad_mixed_PD =
        grads[1].defined() ? grads[1]
                           : at::zeros({weights_PS.size(0), hidden_PD[0].size(1)}, weights_PS.options());
    std::tie(result[1], result[0]) =
        call_backward(grad_mixed_PD, grads[0].defined() ? std::optional<Tensor>(grads[0]) : std::nullopt,
                      weights_PS, hidden_PD, ctx->saved_data["scale"].toDouble());
    return result;
  }
};

Tensor weighted_states_autograd(const Tensor& weights_PS, TensorList hidden_PD) {
  return WeightedStates::apply(weights_PS, hidden_PD.vec());
}
Tensor state_products_autograd(const Tensor& g_PD, TensorList hidden_PD) {
  return StateProducts::apply(g_PD, hidden_PD.vec());
}
std::tuple<Tensor, Tensor> gate_mix_autograd(const Tensor& pull_PD, const Tensor& offset_PS,
                                             TensorList hidden_PD, double scale) {
  const variable_list result = DepthGateMix::apply(pull_PD, offset_PS, hidden_PD.vec(), scale);
  return {result[0], result[1]};
}

TORCH_LIBRARY_FRAGMENT(ctxc, m) {
  m.def("weighted_states(Tensor weights, Tensor[] hidden) -> Tensor");
  m.def("state_products(Tensor g, Tensor[] hidden) -> Tensor");
  m.def("depth_gate_mix(Tensor pull, Tensor offset, Tensor[] hidden, float scale) -> (Tensor, Tensor)");
  m.def(
      "depth_gate_mix_backward(Tensor grad_mixed, Tensor? grad_weights, Tensor weights, Tensor[] hidden, "
      "float scale) -> (Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(ctxc, CPU, m) {
  m.impl("weighted_states", sum_cpu);
  m.impl("state_products", products_cpu);
  m.impl("depth_gate_mix", gate_mix_cpu);
  m.impl("depth_gate_mix_backward", gate_mix_backward_cpu);
}
TORCH_LIBRARY_IMPL(ctxc, Meta, m) {
  m.impl("weighted_states", sum_meta);
  m.impl("state_products", products_meta);
  m.impl("depth_gate_mix", gate_mix_meta);
  m.impl("depth_gate_mix_backward", gate_mix_backward_meta);
}
TORCH_LIBRARY_IMPL(ctxc, Autograd, m) {
  m.impl("weighted_states", weighted_states_autograd);
  m.impl("state_products", state_products_autograd);
  m.impl("depth_gate_mix", gate_mix_autograd);
}

}  // namespace

Tensor mix_states(const Tensor& weights_PS, const std::vector<Tensor>& hidden_PD) {
  static const auto op = find_operator<Tensor(const Tensor&, TensorList)>("ctxc::weighted_states");
  return op.call(weights_PS, hidden_PD);
}

Tensor multiply_states(const Tensor& g_PD, const std::vector<Tensor>& hidden_PD) {
  static const auto op = find_operator<Tensor(const Tensor&, TensorList)>("ctxc::state_products");
  return op.call(g_PD, hidden_PD);
}

std::tuple<Tensor, Tensor> gate_and_mix_states(const Tensor& pull_PD, const Tensor& offset_PS,
                                               const std::vector<Tensor>& hidden_PD, double scale) {
  static const auto op =
      find_operator<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, TensorList, double)>(
          "ctxc::depth_gate_mix");
  return op.call(pull_PD, offset_PS, hidden_PD, scale);
}

}  // namespace ctxc
