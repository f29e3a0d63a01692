#include "model/blocks/denoiser.h"

#include <cmath>

namespace ctxc {
namespace {

constexpr int64_t kSinusoid = 64;
/// Where gates start: far enough from 0 that gradients flow, small enough that F starts as a perturbation.
constexpr double kFirstGate = 0.1;

/// [...] to [..., 64]: sines and cosines of the number at wavelengths from 2 pi to 2e4 pi.
Tensor sinusoid(const Tensor& value) {
  const Tensor rate =
      (at::arange(kSinusoid / 2, value.options()) * (-std::log(10000.0) / static_cast<double>(kSinusoid / 2)))
          .exp();
  const Tensor angle = value.unsqueeze(-1) * rate;
  return at::cat({angle.sin(), angle.cos()}, -1);
}

std::shared_ptr<Affine> zero_affine(int64_t in, int64_t out) {
  return std::make_shared<Affine>(at::zeros({out, in}, at::kFloat), at::zeros({out}, at::kFloat));
}

/// y + (0.1 + gate) Sub((1 + scale) rms(y) + shift), with the three parts from one slice of the conditioning.
template <class Sublayer>
Tensor modulated(const Tensor& y_BKD, const Tensor& condition_BK3D, const Sublayer& sublayer) {
  const auto parts = condition_BK3D.chunk(3, -1);
  const Tensor adapted = unit_rms(y_BKD) * (parts[1] + 1) + parts[0];
  return y_BKD + (parts[2] + kFirstGate) * sublayer(adapted);
}

}  // namespace

Denoiser::Denoiser(const DenoiserOptions& options, uint64_t seed, const std::string& name)
    : options_(options) {
  const int64_t width = options.width, latent = options.latent_width;
  embed_ = register_module("embed", make_linear(3 * kSinusoid, width, seed, name + ".embed"));
  in_ = register_module("in", make_matrix(2 * latent, width, seed, name + ".in", std::sqrt(2.0)));
  const bool cross = options.state > 0 || options.reads_channel;
  if (options.reads_channel)
    channel_ = register_module("channel", make_matrix(latent, width, seed, name + ".channel"));
  if (options.bypass) bypass_ = register_module("bypass", make_matrix(width, width, seed, name + ".bypass"));
  if (options.flat) {
    blocks_ = {make_block("first", cross, seed, name), make_block("last", cross, seed, name)};
  } else {
    blocks_ = {make_block("first", false, seed, name), make_block("bottleneck", cross, seed, name),
               make_block("last", false, seed, name)};
    merge_ = register_module(
        "merge", std::make_shared<PairPool>(width, options.heads, Pool::kConcat, seed, name + ".merge"));
    split_ = register_module("split", make_matrix(width, 2 * width, seed, name + ".split"));
    split_gate_ = register_module("split_gate", zero_affine(width, width));
  }
  if (options.state > 0)
    state_ = register_module(
        "state", std::make_shared<GatedState>(options.state, width, options.heads, seed, name + ".state"));
  out_ = register_module("out", make_matrix(width, latent, seed, name + ".out", 0));
}

std::shared_ptr<Denoiser::Block> Denoiser::make_block(const std::string& part, bool cross, uint64_t seed,
                                                      const std::string& name) {
  const std::string full = name + "." + part;
  const int64_t width = options_.width, heads = options_.heads;
  auto block = register_module(part, std::make_shared<Block>());
  block->self = block->register_module(
      "self", std::make_shared<MultiHeadAttention>(width, heads, seed, full + ".self"));
  if (cross)
    block->cross = block->register_module(
        "cross", std::make_shared<MultiHeadAttention>(width, heads, seed, full + ".cross"));
  block->feed_forward = block->register_module(
      "feed_forward", std::make_shared<FeedForward>(width, seed, full + ".feed_forward"));
  block->condition = block->register_module("condition", zero_affine(width, (cross ? 9 : 6) * width));
  return block;
}

Tensor Denoiser::condition(const Tensor& log_snr_BK, const DenoiserView& view) const {
  const Tensor level =
      options_.fixed_log_snr ? at::full_like(log_snr_BK, *options_.fixed_log_snr) : log_snr_BK;
  const Tensor features =
      at::cat({sinusoid(level), sinusoid(at::full_like(level, static_cast<double>(view.pass))),
               sinusoid(at::full_like(level, static_cast<double>(view.passes)))},
              -1);
  return at::silu(linear(features, *embed_)).to(at::kFloat);
}

Places Denoiser::uncertain(Places places, const Tensor& noise_BK) const {
  if (options_.integrated && options_.code == PositionCode::kRope)
    places.variance = places.size.square() / 12 + noise_BK * (options_.spread * options_.spread);
  return places;
}

std::pair<Tensor, Places> Denoiser::outside(const DenoiserView& view) const {
  const int64_t batch = view.places.mask.size(0);
  std::vector<Tensor> keys, positions, masks, variances;
  if (state_) {
    const Places at_end = state_->places(batch);
    keys.push_back(unit_rms(view.state_BMD));
    positions.push_back(at_end.position);
    masks.push_back(at_end.mask);
    variances.push_back(at::zeros_like(at_end.position));
  }
  if (channel_) {
    keys.push_back(unit_rms(linear(view.channel_BKZ, *channel_)));
    positions.push_back(view.places.position);
    masks.push_back(view.places.mask);
    variances.push_back(view.places.variance.defined() ? view.places.variance
                                                       : at::zeros_like(view.places.position));
  }
  return {at::cat(keys, 1), {at::cat(positions, 1), at::cat(masks, 1), {}, at::cat(variances, 1)}};
}

Tensor Denoiser::run_block(const Block& block, Tensor y_BKD, const Tensor& condition_BKD,
                           const Places& places, const DenoiserView& view) const {
  const int64_t sublayer = 3 * options_.width;
  const auto parts = linear(condition_BKD, *block.condition).to(at::kFloat).split(sublayer, -1);
  const AttentionRule near = rule(options_.window), all = rule(0);
  y_BKD = modulated(y_BKD, parts[0], [&](const Tensor& x) { return block.self->self(x, places, near); });
  if (block.cross) {
    const auto [keys, where] = outside(view);
    y_BKD = modulated(y_BKD, parts[2],
                      [&](const Tensor& x) { return block.cross->forward(x, places, keys, where, all); });
  }
  return modulated(y_BKD, parts[1], [&](const Tensor& x) { return block.feed_forward->forward(x); });
}

Tensor Denoiser::update_state(const Tensor& y_BKD, const Places& places, const DenoiserView& view) const {
  return state_ ? state_->update(view.state_BMD, y_BKD, places, rule(0)) : Tensor();
}

Tensor Denoiser::bottleneck(const Tensor& y_BKD, const Tensor& condition_BKD, const Tensor& noise_BK,
                            const DenoiserView& view, Tensor& state) const {
  const Tensor weight_BK = view.places.size * view.places.mask.to(view.places.size.scalar_type());
  const Places coarse = uncertain(merged_places(view.places), weighted_pair_mean(noise_BK, weight_BK));
  Tensor z_BKD = merge_->forward(y_BKD, view.places);
  z_BKD = run_block(*blocks_[1], z_BKD, weighted_pair_mean(condition_BKD, weight_BK), coarse, view);
  state = update_state(z_BKD, coarse, view);
  return split_pairs(linear(unit_rms(z_BKD), *split_), y_BKD.size(1));
}

Denoiser::Result Denoiser::forward(const Tensor& z_BKZ, const Tensor& clean_before_BKZ,
                                   const Tensor& log_snr_BK, const DenoiserView& view) const {
  const Tensor noise_BK = (-log_snr_BK).sigmoid(), condition_BKD = condition(log_snr_BK, view);
  DenoiserView here = view;
  here.places = uncertain(view.places, noise_BK);
  Tensor y_BKD = linear(at::cat({z_BKZ, clean_before_BKZ}, -1), *in_).to(at::kFloat);
  if (bypass_) y_BKD = y_BKD + linear(unit_rms(view.bypass_BKD), *bypass_);
  Result result;
  y_BKD = run_block(*blocks_[0], y_BKD, condition_BKD, here.places, here);
  if (!options_.flat) {
    const Tensor fine_BKD = bottleneck(y_BKD, condition_BKD, noise_BK, here, result.state_BMD);
    y_BKD = y_BKD + (linear(condition_BKD, *split_gate_) + kFirstGate) * fine_BKD;
  }
  y_BKD = run_block(*blocks_.back(), y_BKD, condition_BKD, here.places, here).to(at::kFloat);
  if (options_.flat) result.state_BMD = update_state(y_BKD, here.places, here);
  result.features_BKD = y_BKD;
  result.predicted_BKZ = linear(unit_rms(y_BKD), *out_).to(at::kFloat);
  return result;
}

}  // namespace ctxc
