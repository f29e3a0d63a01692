// The losses and statistics of the method `diffusion` (diffusion.md section 7), unweighted; section
// `objective` weighs them:
//   kl       target: max(0, Rbar / rho*(step) - 1), Rbar = sum_k R_k / N nats per source token; rho* falls
//   from the
//            initial rate to rho_target over kl_ramp.   beta: mean_k R_k / d_z, times a ramp from 0 to 1
//   agg      -(1 / d_z) ln det Cov(z) blocks/latent_moments denoise  mean ||F_v - v||^2 / d_z at levels of
//   which half are those the sampler visits (U(0, s_start]) and half
//            U(0, 1]; z0 detached; self-conditioning with probability 0.5. dn_per_latent_t: false: one level
//            for a whole sample, s_start then of its latent that starts highest
//   recon    1 - cos(up path of zhat0, x), x detached: training only
//   position squared error of (pbar_k - pbar_{k-1}) / r from the clean estimates of two neighbours, at every
//   step
// Logged beside them: rate_nats_per_token, rate_bits_per_token, rate_nats (a latent), rate_tight (0 until the
// window of moments is full), lam_mean, vectors_read, ratio_effective, and explained_0..9: 1 - ||F_v - v||^2
// / ||v||^2 by decile of the level (NaN where no draw fell).
#include <cmath>
#include <limits>
#include <numbers>

#include "core/log.h"
#include "model/blocks/full_precision.h"
#include "model/compressors/diffusion.h"

namespace ctxc {
namespace {

/// Below this share of the rate, the latent space has collapsed.
constexpr double kCollapse = 0.25;
constexpr int64_t kDeciles = 10;

Tensor valid_rows(const Tensor& values, const Tensor& mask_BK) {
  const Tensor index = mask_BK.flatten().nonzero().squeeze(1);
  return values.flatten(0, 1).index_select(0, index);
}

Tensor plus(const Tensor& sum, const Tensor& term) {
  return sum.defined() ? sum + term : term;
}

Tensor scalar(double value, const Tensor& like) {
  return at::full({}, value, like.options().dtype(at::kFloat).requires_grad(false));
}

/// Half of the levels uniform in (0, start], half in (0, 1].
Tensor draw_levels(const RowNoise& noise, const std::string& which, const Tensor& start) {
  // uniform() is in [0, 1); a level of 0 holds no noise to predict.
  const Tensor level = 1 - noise.uniform("diffusion.denoise.level/" + which, start.size(1));
  const Tensor visited =
      noise.uniform("diffusion.denoise.visited/" + which, start.size(1)).lt(0.5).to(at::kFloat);
  return level * (visited * start + (1 - visited));
}

}  // namespace

void Diffusion::account(Ledger& ledger, const Encoded& encoded, const TextSlice& chunk) const {
  const FullPrecision full;
  const Places& latents = encoded.latents();
  ledger.tokens += chunk.tokens.mask.sum().item<double>();
  ledger.latents += latents.mask.sum().item<double>();
  const auto pick = [&](const Tensor& values) { return valid_rows(values, latents.mask); };
  const int64_t width = config_.latent_width;
  if (variance_) {
    const Tensor kl = gaussian_kl(encoded.clean_BKZ, encoded.log_variance);
    const double floor = static_cast<double>(config_.ratio) * config_.rho;  // free bits
    ledger.kls.push_back(pick(kl.clamp_min(floor)));
    ledger.rates.push_back(pick(kl));
    ledger.signals.push_back(pick(encoded.clean_BKZ));
    ledger.noises.push_back(pick(encoded.log_variance.exp()));
  } else {
    const Tensor levels = encoded.levels(encoded.log_snr_BK);
    const Tensor wide = (levels.dim() == 3 ? levels : levels.unsqueeze(-1).expand_as(encoded.clean_BKZ));
    ledger.kls.push_back(pick(channel_kl(encoded.clean_BKZ, levels)));
    ledger.rates.push_back(pick(at::softplus(wide).sum(-1) / 2));
    ledger.signals.push_back(pick(diffuse(encoded.clean_BKZ, levels, {})));
    ledger.noises.push_back(pick((-wide).sigmoid().expand({-1, -1, width})));
  }
  ledger.log_snrs.push_back(pick(encoded.log_snr_BK));
}

/// s_start of the latents: the sampler visits levels up to there.
Tensor Diffusion::visited_up_to(const Piece& piece) const {
  const Tensor& log_snr_BK = piece.views.back().log_snr_BK;
  return config_.start == "gaussian" ? at::ones_like(log_snr_BK) : schedule_.level(log_snr_BK.detach());
}

/// One level for all of a sample [B, 1]: half of them among those that one of its latents visits.
Tensor Diffusion::denoise_level(const std::vector<Piece>& pieces, const Run& run) const {
  Tensor start_B1;
  for (const Piece& piece : pieces) {
    const Tensor real = piece.views.back().mask_BK;
    const Tensor here_B1 = visited_up_to(piece).masked_fill(real.logical_not(), 0).amax(1, true);
    start_B1 = start_B1.defined() ? at::maximum(start_B1, here_B1) : here_B1;
  }
  if (!start_B1.defined()) return {};
  // A sample without latents draws somewhere, too: nothing of it counts.
  return draw_levels(run.noise, "0", at::where(start_B1 > 0, start_B1, at::ones_like(start_B1)));
}

Tensor Diffusion::denoise_levels(const Piece& piece, const Run& run) const {
  if (!config_.dn_per_latent_t) return run.denoise_B1.expand({-1, piece.views.back().mask_BK.size(1)});
  return draw_levels(run.noise, std::to_string(piece.chunk.index), visited_up_to(piece));
}

void Diffusion::add_denoise(Ledger& ledger, const Piece& piece, const Run& run) const {
  const std::string which = "/" + std::to_string(piece.chunk.index);
  const Encoded& encoded = piece.encoded;
  const Tensor normal_clean = config_.channel == "vae" ? unit_rms(encoded.clean_BKZ) : encoded.clean_BKZ;
  const Tensor clean = config_.dn_detach ? normal_clean.detach() : normal_clean;
  const Tensor s_BK = denoise_levels(piece, run), log_snr_BK = schedule_.log_snr(s_BK);
  const Tensor eps = run.noise.normal("diffusion.denoise" + which, clean.size(1), config_.latent_width);
  const Tensor z = diffuse(clean, log_snr_BK, eps);
  const Amplitudes here(log_snr_BK, z);
  const Prediction kind = config_.prediction == "v" ? Prediction::kVelocity : Prediction::kClean;
  const Tensor target = kind == Prediction::kVelocity ? velocity(here, clean, eps) : clean;

  DenoiserView view;
  view.places = piece.chunk.from_the_end(encoded.latents());
  view.pass = view.passes = config_.passes;
  if (config_.start == "gaussian") view.channel_BKZ = piece.views.back().latent_BKZ.detach();
  if (config_.skip_bypass) view.bypass_BKD = encoded.top_BKD.detach();
  const Tensor coins = run.noise.uniform("diffusion.denoise.coins" + which, 2).lt(0.5);
  if (config_.state > 0) {
    const Tensor fresh = denoiser_->state()->start(clean.size(0));
    view.state_BMD = run.chunks > 1
                         ? at::where(coins.select(1, 0).view({-1, 1, 1}), piece.carried.detach(), fresh)
                         : fresh;
  }
  Tensor before = at::zeros_like(z);
  {
    const at::NoGradGuard no_grad;
    const Tensor first = denoiser_->forward(z, before, log_snr_BK, view).predicted_BKZ;
    before = std::get<0>(ddim_update(z, first, log_snr_BK, {}, kind)) *
             coins.select(1, 1).to(at::kFloat).view({-1, 1, 1});
  }
  const Tensor predicted = denoiser_->forward(z, before, log_snr_BK, view).predicted_BKZ;
  const Tensor error_BK = (predicted - target).square().sum(-1), real = encoded.latents().mask.to(at::kFloat);
  Tensor weight = real;
  if (config_.dn_weighting == "minsnr")
    weight = real * min_snr_weight(log_snr_BK, kind == Prediction::kClean);
  ledger.denoise =
      plus(ledger.denoise, (weight * error_BK).sum() / static_cast<double>(config_.latent_width));
  ledger.denoise_latents += real.sum().item<double>();
  const Tensor decile = (s_BK * kDeciles).to(at::kLong).clamp(0, kDeciles - 1).flatten();
  const Tensor none = at::zeros({kDeciles}, real.options());
  ledger.error_T = plus(ledger.error_T, none.index_add(0, decile, (error_BK.detach() * real).flatten()));
  ledger.power_T =
      plus(ledger.power_T, none.index_add(0, decile, (target.detach().square().sum(-1) * real).flatten()));
}

void Diffusion::add_recon(Ledger& ledger, const Piece& piece) const {
  const Tensor x = parts_.up->forward(piece.reversed.clean_BKZ, piece.encoded.places);
  const auto [distance, rows] = cosine_distance(x, piece.chunk.x_BND.detach(), piece.chunk.tokens.mask);
  ledger.recon = plus(ledger.recon, distance * rows);
  ledger.recon_rows += rows;
}

void Diffusion::add_position(Ledger& ledger, const Piece& piece) const {
  const Places& latents = piece.encoded.latents();
  const int64_t count = latents.mask.size(1);
  if (count < 2) return;
  const Tensor distance = (latents.position.slice(1, 1) - latents.position.slice(1, 0, count - 1)) /
                          static_cast<double>(config_.ratio);
  const Tensor real = latents.mask.slice(1, 1).to(at::kFloat);
  for (const Tensor& estimate : piece.reversed.estimates) {
    const Tensor pairs = at::cat({estimate.slice(1, 0, count - 1), estimate.slice(1, 1)}, -1);
    const Tensor found = linear(pairs, *parts_.distance).squeeze(-1);
    ledger.position = plus(ledger.position, ((found - distance).square() * real).sum());
    ledger.position_pairs += real.sum().item<double>();
  }
}

double Diffusion::ramp(int64_t step) const {
  const double first = static_cast<double>(config_.kl_ramp[0]),
               last = static_cast<double>(config_.kl_ramp[1]);
  if (static_cast<double>(step) >= last) return 1;
  return std::max(0.0, (static_cast<double>(step) - first) / (last - first));
}

Tensor Diffusion::kl_term(const Ledger& ledger, int64_t step) const {
  const Tensor kls = at::cat(ledger.kls);
  if (config_.channel == "none") return scalar(0, kls);
  if (config_.kl_mode == "beta") return kls.mean() / static_cast<double>(config_.latent_width) * ramp(step);
  const double half = static_cast<double>(config_.latent_width) / 2;
  const double initial = half * std::log1p(std::exp(config_.lam_start)) / static_cast<double>(config_.ratio);
  const double target = initial > config_.rho_target ? initial + ramp(step) * (config_.rho_target - initial)
                                                     : config_.rho_target;
  return (kls.sum() / (ledger.tokens * target) - 1).clamp_min(0);
}

void Diffusion::warn_of_collapse(bool collapsed) {
  if (collapsed && !collapsed_)
    log_warning(
        "diffusion: the latents are collapsing (rate_tight is below a quarter of the rate): raise "
        "objective.agg, or lower objective.kl");
  collapsed_ = collapsed;
}

Terms Diffusion::terms(const Ledger& ledger, const Run& run, int64_t slots) {
  Terms terms;
  if (ledger.latents == 0) {  // of empty contexts alone: every term is there, and asks for nothing
    std::vector<const char*> names{"kl", "agg"};
    if (run.key.training && config_.denoise) names.push_back("denoise");
    if (run.key.training && config_.recon) names.push_back("recon");
    if (run.key.training && config_.position) names.push_back("position");
    for (const char* name : names) terms[name] = scalar(0, mix_->parameters().front());
    return terms;
  }
  terms["kl"] = kl_term(ledger, run.key.step);
  const Tensor rates = at::cat(ledger.rates), rate = rates.mean();
  const double per_token = ledger.latents / ledger.tokens;
  const LatentMoments::Result moments =
      moments_->include(at::cat(ledger.signals), at::cat(ledger.noises), rates, run.key.training);
  const bool full = moments.covariance_ZZ.defined();
  terms["agg"] = full ? aggregate_loss(moments.covariance_ZZ) : scalar(0, rates);
  if (run.key.training && config_.denoise) terms["denoise"] = ledger.denoise / ledger.denoise_latents;
  if (run.key.training && config_.recon) terms["recon"] = ledger.recon / ledger.recon_rows;
  if (run.key.training && config_.position)
    terms["position"] =
        ledger.position.defined() ? ledger.position / std::max(ledger.position_pairs, 1.0) : scalar(0, rates);
  // From here on: what is only logged.
  const at::NoGradGuard no_grad;
  const Tensor tight = full ? rate_tight(moments.rate, moments.covariance_ZZ) : scalar(0, rates);
  terms["rate_nats"] = rate.detach();
  terms["rate_tight"] = tight;
  terms["rate_nats_per_token"] = rate.detach() * per_token;
  terms["rate_bits_per_token"] = rate.detach() * (per_token / std::numbers::ln2);
  terms["lam_mean"] = at::cat(ledger.log_snrs).mean();
  terms["vectors_read"] = scalar(static_cast<double>(slots), rates);
  terms["ratio_effective"] = scalar(ledger.tokens / static_cast<double>(slots), rates);
  if (!run.key.training) return terms;
  if (full && config_.channel == "vp") {
    const bool collapsed = tight.item<double>() < kCollapse * moments.rate.item<double>();
    terms["alarm_collapse"] = scalar(collapsed ? 1 : 0, rates);
    warn_of_collapse(collapsed);
  }
  if (config_.denoise) {
    const Tensor explained = 1 - ledger.error_T / ledger.power_T;
    for (int64_t i = 0; i < kDeciles; ++i) terms["explained_" + std::to_string(i)] = explained[i];
  }
  return terms;
}

}  // namespace ctxc
