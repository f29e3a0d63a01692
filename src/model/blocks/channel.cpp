#include "model/blocks/channel.h"

#include <cmath>

#include "core/error.h"
#include "model/blocks/noise_schedule.h"
#include "model/blocks/ordered_merge.h"

namespace ctxc {
namespace {

PassView degrade_pairs(const PassView& later, double delta, const Tensor& eps_BKZ) {
  const Tensor mask_BK2 = in_pairs(later.mask_BK), real = mask_BK2.to(later.latent_BKZ.scalar_type());
  const Tensor inverse_snr = in_pairs(-later.log_snr_BK).exp() * real;
  const Tensor count = real.sum(2).clamp_min(1);
  const Tensor scaled = later.latent_BKZ * (at::log_sigmoid(later.log_snr_BK) * -0.5).exp().unsqueeze(-1);
  const Tensor zeta = (in_pairs(scaled) * real.unsqueeze(-1)).sum(2) / count.unsqueeze(-1);
  const Tensor nu = inverse_snr.sum(2) / count.square();
  PassView earlier;
  earlier.group = 2 * later.group;
  earlier.mask_BK = mask_BK2.any(2);
  const Tensor mean = (inverse_snr.sum(2) / count).masked_fill(earlier.mask_BK.logical_not(), 1);
  earlier.log_snr_BK = -(mean.log() + delta);
  const Tensor abar = earlier.log_snr_BK.sigmoid();
  earlier.latent_BKZ = abar.sqrt().unsqueeze(-1) * zeta;
  if (eps_BKZ.defined())
    earlier.latent_BKZ =
        earlier.latent_BKZ + (1 - abar * (1 + nu)).clamp_min(0).sqrt().unsqueeze(-1) * eps_BKZ;
  return earlier;
}

}  // namespace

double lowest_log_snr(double rho, int64_t ratio, int64_t latent_width) {
  const double nats = 2 * static_cast<double>(ratio) * rho / static_cast<double>(latent_width);
  const double lam = std::log(std::expm1(nats));
  CTXC_CHECK(
      std::isfinite(lam) && std::abs(lam) < kLogSnrBound, ErrorKind::kUsage,
      "choose rho above 0 and below what latent_width can hold",
      "compressor.rho: {} nats a source token need a log-SNR of {:.3g} at ratio {} and latent_width {} "
      "(expected within +-{})",
      rho, lam, ratio, latent_width, kLogSnrBound);
  return lam;
}

Tensor gaussian_kl(const Tensor& mean, const Tensor& log_variance) {
  return (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1) / 2;
}

Tensor channel_kl(const Tensor& clean_BKZ, const Tensor& log_snr) {
  if (log_snr.dim() < clean_BKZ.dim())
    return at::softplus(log_snr) * (static_cast<double>(clean_BKZ.size(-1)) / 2);
  return (log_snr.sigmoid() * (clean_BKZ.square() - 1) + at::softplus(log_snr)).sum(-1) / 2;
}

Tensor level_room(const Tensor& log_snr_BK, const Tensor& mask_BK, double lowest) {
  return (log_snr_BK.detach().masked_fill(mask_BK.logical_not(), 1e4).amin(1) - lowest)
      .clamp(0, 2 * kLogSnrBound);
}

Tensor PassView::spread(const Tensor& per_group, int64_t group, int64_t latents) {
  return group == 1 ? per_group : per_group.repeat_interleave(group, 1).slice(1, 0, latents);
}

PassView degrade(const PassView& later, double delta, bool pool, const Tensor& eps_BKZ) {
  if (pool) return degrade_pairs(later, delta, eps_BKZ);
  PassView earlier{.latent_BKZ = {}, .log_snr_BK = later.log_snr_BK - delta, .mask_BK = later.mask_BK};
  const Tensor share =
      (at::log_sigmoid(earlier.log_snr_BK) - at::log_sigmoid(later.log_snr_BK)).unsqueeze(-1);
  earlier.latent_BKZ = (share / 2).exp() * later.latent_BKZ;
  if (eps_BKZ.defined()) earlier.latent_BKZ = earlier.latent_BKZ + (-share.expm1()).sqrt() * eps_BKZ;
  return earlier;
}

}  // namespace ctxc
