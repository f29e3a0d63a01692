#include "model/blocks/ddim.h"

namespace ctxc {

Tensor velocity(const Amplitudes& at, const Tensor& clean, const Tensor& eps) {
  return at.signal * eps - at.noise * clean;
}

std::vector<Tensor> ddim(const NoiseSchedule& schedule, Tensor z_BKZ, const Tensor& start_log_snr,
                         const DdimOptions& options, const Denoise& denoise) {
  Tensor before = at::zeros_like(z_BKZ), log_snr = start_log_snr;
  if (options.steps == 0) {
    denoise(z_BKZ, before, log_snr);
    return {diffuse(z_BKZ, log_snr, {})};
  }
  const Tensor start = schedule.level(start_log_snr);
  std::vector<Tensor> estimates;
  for (int64_t step = 0; step < options.steps; ++step) {
    const bool last = step + 1 == options.steps;
    Tensor predicted;
    {
      // Without an early step's prediction the gradient still reaches the latent itself.
      const at::AutoGradMode gradient(at::GradMode::is_enabled() && (last || !options.last_step_only));
      predicted = denoise(z_BKZ, before, log_snr);
    }
    // At level 0 only the estimate counts: the root of 1 - abar(0) = 0 has no finite derivative.
    std::optional<Tensor> next_log_snr;
    if (!last) {
      const double left = 1 - static_cast<double>(step + 1) / static_cast<double>(options.steps);
      next_log_snr = schedule.log_snr(start * left);
    }
    std::tie(before, z_BKZ) = ddim_update(z_BKZ, predicted, log_snr, next_log_snr, options.prediction);
    estimates.push_back(before);
    if (next_log_snr) log_snr = *next_log_snr;
  }
  return estimates;
}

}  // namespace ctxc
