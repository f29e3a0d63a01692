#include "model/blocks/gated_state.h"

#include <cmath>

namespace ctxc {

GatedState::GatedState(int64_t vectors, int64_t width, int64_t heads, uint64_t seed,
                       const std::string& name) {
  initial_ = register_parameter("initial",
                                draw({vectors, width}, {Draw::Kind::kNormal, 1}, seed, name + ".initial"));
  attention_ = register_module("attention",
                               std::make_shared<MultiHeadAttention>(width, heads, seed, name + ".attention"));
  const Draw rule{Draw::Kind::kNormal, 1 / std::sqrt(static_cast<double>(2 * width))};
  gate_ = register_module(
      "gate", std::make_shared<Affine>(draw({width, 2 * width}, rule, seed, name + ".gate.weight"),
                                       at::full({width}, -2.0, at::kFloat)));
}

Tensor GatedState::start(int64_t batch) const {
  return initial_.unsqueeze(0).expand({batch, -1, -1});
}

Places GatedState::places(int64_t batch) const {
  const auto options = initial_.options().requires_grad(false);
  return {at::zeros({batch, vectors()}, options), at::ones({batch, vectors()}, options.dtype(at::kBool))};
}

Tensor GatedState::update(const Tensor& state_BMD, const Tensor& y_BKD, const Places& keys,
                          const AttentionRule& rule) const {
  const Tensor read =
      attention_->forward(unit_rms(state_BMD), places(state_BMD.size(0)), unit_rms(y_BKD), keys, rule)
          .to(at::kFloat);
  const Tensor gamma = linear(at::cat({state_BMD, read}, 2), *gate_).to(at::kFloat).sigmoid();
  const Tensor next = state_BMD + gamma * (read - state_BMD);
  return at::where(keys.mask.any(1).view({-1, 1, 1}), next, state_BMD);
}

}  // namespace ctxc
