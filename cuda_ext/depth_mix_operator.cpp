#include <vector>

#include "cuda_ext/operator_support.h"

namespace ctxc::cuda {
namespace {

/// The states as the kernels take them; holds what had to be made contiguous.
struct States {
  explicit States(TensorList hidden_PD) {
    const int64_t count = static_cast<int64_t>(hidden_PD.size());
    TORCH_CHECK(count >= 1 && count <= kMostStates, "ctxc: 1 to ", kMostStates, " hidden states (found ",
                count, ")");
    for (const Tensor& state : hidden_PD) {
      TORCH_CHECK(state.dim() == 2 && state.sizes() == hidden_PD[0].sizes() &&
                      state.scalar_type() == hidden_PD[0].scalar_type() &&
                      state.device() == hidden_PD[0].device(),
                  "ctxc: hidden states differ in shape, type or device");
      kept.push_back(state.contiguous());
      list.state[kept.size() - 1] = kept.back().const_data_ptr();
    }
    list.count = static_cast<int>(count);
    tokens = kept[0].size(0);
    width = int_of(kept[0].size(1), "model width");
    TORCH_CHECK(width > 0, "ctxc: hidden states without columns");
  }
  Type type() const { return type_of(kept[0]); }
  Stream stream() const { return stream_of(kept[0]); }
  /// In the type the states are computed in.
  Tensor as_wide(const Tensor& tensor, int64_t rows, int64_t columns) const {
    TORCH_CHECK(tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) == columns,
                "ctxc: depth mix: a tensor does not fit the states (found ", tensor.sizes(), ", expected [",
                rows, ", ", columns, "])");
    return tensor.to(wide(kept[0])).contiguous();
  }
  Tensor empty(int64_t columns) const {
    return at::empty({tokens, columns}, kept[0].options().dtype(wide(kept[0])));
  }

  std::vector<Tensor> kept;
  StateList list{};
  int64_t tokens;
  int width;
};

}  // namespace

Tensor weighted_states(const Tensor& weights_PS, TensorList hidden_PD) {
  const c10::DeviceGuard guard(weights_PS.device());
  const States states(hidden_PD);
  const bool common = weights_PS.size(0) == 1;
  const Tensor weights = states.as_wide(weights_PS, common ? 1 : states.tokens, states.list.count);
  Tensor out = states.empty(states.width);
  check_started(
      weighted_states(states.type(), states.list, weights.const_data_ptr(), common ? 0 : states.list.count,
                      out.mutable_data_ptr(), states.tokens, states.width, states.stream()),
      "weighted_states");
  return out;
}

Tensor state_products(const Tensor& g_PD, TensorList hidden_PD) {
  const c10::DeviceGuard guard(g_PD.device());
  const States states(hidden_PD);
  const Tensor g = states.as_wide(g_PD, states.tokens, states.width);
  Tensor out = states.empty(states.list.count);
  check_started(state_products(states.type(), states.list, g.const_data_ptr(), out.mutable_data_ptr(),
                               states.tokens, states.width, states.stream()),
                "state_products");
  return out;
}

std::tuple<Tensor, Tensor> depth_gate_mix(const Tensor& pull_PD, const Tensor& offset_PS,
                                          TensorList hidden_PD, double scale) {
  const c10::DeviceGuard guard(pull_PD.device());
  const States states(hidden_PD);
  const Tensor pull = states.as_wide(pull_PD, states.tokens, states.width),
               offset = states.as_wide(offset_PS, states.tokens, states.list.count);
  Tensor weights = states.empty(states.list.count), mixed = states.empty(states.width);
  check_started(depth_gate_mix(states.type(), states.list, pull.const_data_ptr(), offset.const_data_ptr(),
                               scale, weights.mutable_data_ptr(), mixed.mutable_data_ptr(), states.tokens,
                               states.width, states.stream()),
                "depth_gate_mix");
  return {weights, mixed};
}

std::tuple<Tensor, Tensor> depth_gate_mix_backward(const Tensor& grad_mixed_PD,
                                                   const std::optional<Tensor>& grad_weights_PS,
                                                   const Tensor& weights_PS, TensorList hidden_PD,
                                                   double scale) {
  const c10::DeviceGuard guard(grad_mixed_PD.device());
  const States states(hidden_PD);
  const Tensor grad_mixed = states.as_wide(grad_mixed_PD, states.tokens, states.width),
               weights = states.as_wide(weights_PS, states.tokens, states.list.count);
  const Tensor grad_weights =
      grad_weights_PS ? states.as_wide(*grad_weights_PS, states.tokens, states.list.count) : Tensor();
  Tensor grad_offset = states.empty(states.list.count), grad_pull = states.empty(states.width);
  check_started(
      depth_gate_mix_backward(states.type(), states.list, grad_mixed.const_data_ptr(),
                              grad_weights.defined() ? grad_weights.const_data_ptr() : nullptr,
                              weights.const_data_ptr(), scale, grad_offset.mutable_data_ptr(),
                              grad_pull.mutable_data_ptr(), states.tokens, states.width, states.stream()),
      "depth_gate_mix_backward");
  return {grad_offset, grad_pull};
}

}  // namespace ctxc::cuda
