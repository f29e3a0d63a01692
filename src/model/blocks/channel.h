// The compression channel: the forward diffusion process, at a level of each latent's own (diffusion.md
// sections 4, 5 and 7).
//   z = sqrt(abar) z0 + sqrt(1 - abar) eps,  abar = sigmoid(lam),  1 - abar = sigmoid(-lam),  ||z0||^2 = d_z
//   R = KL(q(z | x) || N(0, I)) = -(d_z / 2) ln(1 - abar) = (d_z / 2) softplus(lam)   nats
//   lowest level: R = r rho, i.e. lam_min = ln(exp(2 r rho / d_z) - 1)
// Passes (P > 1) form a Markov chain of degraded copies, a_p = sigmoid(lam_p), lam_p = lam_{p+1} - Delta:
//   z_p = sqrt(a_p / a_{p+1}) z_{p+1} + sqrt(1 - a_p / a_{p+1}) eps_p
// or, with view_pool, of pairs of neighbours averaged (zeta = mean z_{p+1} / sqrt(a_{p+1}), nu = 1/4 sum
// exp(-lam), exp(-lam_p) = e^Delta mean exp(-lam_{p+1}); alone: zeta = z / sqrt(a), nu = exp(-lam)):
//   z_p = sqrt(a_p) zeta + sqrt(1 - a_p (1 + nu)) eps_p
// Everything is float32 (float64 in tests); eps may be undefined: none is added.
#pragma once
#include <vector>

#include "model/kernels/diffusion_step.h"  // diffuse: the forward process itself
#include "model/shapes.h"

namespace ctxc {

/// Log-SNR of `rho` nats a source token at ratio r. Error kUsage where float32 cannot hold it.
double lowest_log_snr(double rho, int64_t ratio, int64_t latent_width);

/// 1/2 sum (m^2 + s^2 - 1 - ln s^2) over the last dimension: KL(N(m, diag s^2) || N(0, I)).
Tensor gaussian_kl(const Tensor& mean, const Tensor& log_variance);
/// (d_z / 2) softplus(lam) [B, K] for ||z0||^2 = d_z; with levels [B, K, Z]
/// 1/2 sum_i [abar_i (z0_i^2 - 1) + softplus(lam_i)].
Tensor channel_kl(const Tensor& clean_BKZ, const Tensor& log_snr);

/// Level training lowers the log-SNRs of a sample together: the way from its lowest latent to `lowest`, [B],
/// detached. Rows without latents give more than any level could be lowered by.
Tensor level_room(const Tensor& log_snr_BK, const Tensor& mask_BK, double lowest);

/// What one pass reads. With view_pool a vector stands for `group` neighbouring latents.
struct PassView {
  Tensor latent_BKZ, log_snr_BK, mask_BK;
  int64_t group = 1;
  /// Each group's row repeated for its latents: the first `latents` of them.
  static Tensor spread(const Tensor& per_group, int64_t group, int64_t latents);
};
/// The view of the pass before: degraded by `delta`, pooled in pairs if asked.
PassView degrade(const PassView& later, double delta, bool pool, const Tensor& eps_BKZ);

}  // namespace ctxc
