// The deterministic sampler of diffusion models (Song et al., DDIM, 2021, eta = 0) from a latent's own level
// s down to 0 in J steps, and the algebra of v-prediction (Salimans & Ho, 2022):
//   v = sqrt(abar) eps - sqrt(1 - abar) z0;  z0 = sqrt(abar) z - sqrt(1 - abar) v;
//   eps = sqrt(1 - abar) z + sqrt(abar) v
//   s_j = s (1 - j / J);  z <- sqrt(abar(s_{j+1})) zhat0 + sqrt(1 - abar(s_{j+1})) epshat; the last step
//   gives zhat0 J = 0: zhat0 = sqrt(abar) z, the denoiser applied once for its features only
#pragma once
#include <functional>
#include <vector>

#include "model/blocks/noise_schedule.h"
#include "model/kernels/diffusion_step.h"

namespace ctxc {

/// v of a clean latent and its noise.
Tensor velocity(const Amplitudes& at, const Tensor& clean, const Tensor& eps);

/// The prediction [B, K, Z] for latents z at log-SNRs (shaped as those the sampler began with), given the
/// estimate of the step before (zeros at the first).
using Denoise =
    std::function<Tensor(const Tensor& z_BKZ, const Tensor& clean_before_BKZ, const Tensor& log_snr)>;

struct DdimOptions {
  int64_t steps = 2;
  Prediction prediction = Prediction::kVelocity;
  bool last_step_only = false;  ///< the predictions of earlier steps are constants
};
/// The clean estimates of all steps, the last being the result.
std::vector<Tensor> ddim(const NoiseSchedule& schedule, Tensor z_BKZ, const Tensor& start_log_snr,
                         const DdimOptions& options, const Denoise& denoise);

}  // namespace ctxc
