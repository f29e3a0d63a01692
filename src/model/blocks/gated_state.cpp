#include "model/blocks/gated_state.h"

#include <cmath>

namespace ctxc {

GatedState::GatedState(int64_t vectors, int64_t width, int64_t heads, uint64_t seed, const std::string& name,
                       GatedStateOptions options)
    : options_(options) {
  initial_ = register_parameter("initial",
                                draw({vectors, width}, {Draw::Kind::kNormal, 1}, seed, name + ".initial"));
  attention_ = register_module("attention",
                               std::make_shared<MultiHeadAttention>(width, heads, seed, name + ".attention"));
  if (options.feed_forward)
    feed_forward_ =
        register_module("feed_forward", std::make_shared<FeedForward>(width, seed, name + ".feed_forward"));
  if (options.running_mean) return;
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
                          const AttentionRule& rule, const Tensor& count_B) const {
  const Places own = places(state_BMD.size(0));
  const Tensor normed = unit_rms(state_BMD);
  Tensor source = unit_rms(y_BKD);
  Places places = keys;
  if (options_.reads_itself) {
    source = at::cat({source, normed}, 1);
    places.position = at::cat({keys.position, own.position}, 1);
    places.mask = at::cat({keys.mask, own.mask}, 1);
    if (keys.size.defined()) places.size = at::cat({keys.size, at::ones_like(own.position)}, 1);
  }
  const Tensor read = attention_->forward(normed, own, source, places, rule).to(at::kFloat);
  const Tensor gamma = options_.running_mean
                           ? count_B.reciprocal().view({-1, 1, 1})
                           : linear(at::cat({state_BMD, read}, 2), *gate_).to(at::kFloat).sigmoid();
  Tensor next = state_BMD + gamma * (read - state_BMD);
  if (feed_forward_) next = unit_rms(next + feed_forward_->forward(unit_rms(next)));
  return at::where(keys.mask.any(1).view({-1, 1, 1}), next, state_BMD);
}

}  // namespace ctxc
