#include "model/blocks/ddim.h"

namespace ctxc {

Amplitudes::Amplitudes(const Tensor& log_snr, const Tensor& latent_BKZ) {
  const Tensor lam = log_snr.dim() == latent_BKZ.dim() ? log_snr : log_snr.unsqueeze(-1);
  signal = lam.sigmoid().sqrt();
  noise = (-lam).sigmoid().sqrt();
}

Tensor velocity(const Amplitudes& at, const Tensor& clean, const Tensor& eps) {
  return at.signal * eps - at.noise * clean;
}

Tensor clean_of(const Amplitudes& at, const Tensor& z, const Tensor& predicted, Prediction kind) {
  return kind == Prediction::kClean ? predicted : at.signal * z - at.noise * predicted;
}

Tensor eps_of(const Amplitudes& at, const Tensor& z, const Tensor& predicted, Prediction kind) {
  if (kind == Prediction::kVelocity) return at.noise * z + at.signal * predicted;
  return (z - at.signal * predicted) / at.noise.clamp_min(1e-4);
}

std::vector<Tensor> ddim(const NoiseSchedule& schedule, Tensor z_BKZ, const Tensor& start_log_snr,
                         const DdimOptions& options, const Denoise& denoise) {
  Tensor before = at::zeros_like(z_BKZ), log_snr = start_log_snr;
  if (options.steps == 0) {
    denoise(z_BKZ, before, log_snr);
    return {Amplitudes(log_snr, z_BKZ).signal * z_BKZ};
  }
  const Tensor start = schedule.level(start_log_snr);
  std::vector<Tensor> estimates;
  for (int64_t step = 0; step < options.steps; ++step) {
    const bool last = step + 1 == options.steps;
    const Amplitudes here(log_snr, z_BKZ);
    Tensor predicted;
    {
      // Without an early step's prediction the gradient still reaches the latent itself.
      const at::AutoGradMode gradient(at::GradMode::is_enabled() && (last || !options.last_step_only));
      predicted = denoise(z_BKZ, before, log_snr);
    }
    before = clean_of(here, z_BKZ, predicted, options.prediction);
    estimates.push_back(before);
    // At level 0 only the estimate counts: the root of 1 - abar(0) = 0 has no finite derivative.
    if (last) break;
    const double left = 1 - static_cast<double>(step + 1) / static_cast<double>(options.steps);
    const Tensor eps = eps_of(here, z_BKZ, predicted, options.prediction);
    log_snr = schedule.log_snr(start * left);
    const Amplitudes next(log_snr, z_BKZ);
    z_BKZ = next.signal * before + next.noise * eps;
  }
  return estimates;
}

}  // namespace ctxc
