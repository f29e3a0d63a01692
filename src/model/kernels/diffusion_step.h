// The diffusion channel and one step of the DDIM sampler (model/blocks/channel.h and ddim.h say what for),
// over latents whose log-SNRs lam belong to a row, or one to each element. With s = sqrt(sigmoid(lam)) and n
// = sqrt(sigmoid(-lam)), the amplitudes of signal and noise:
//   ctxc::diffuse(clean, log_snr, eps?) -> z                     z = s clean + n eps
//   ctxc::ddim_update(z, predicted, log_snr, next_log_snr?, velocity) -> (clean, next)
//       clean, eps = s z - n v, n z + s v                        of a predicted velocity v
//                  = p, (z - s p) / max(n, 1e-4)                 of a predicted clean latent p
//       next = s' clean + n' eps                                 at the next level; without one (the last
//       step, whose level 0 has n' = 0) there is none: undefined, and the root of n'^2 is never
//       differentiated
// differentiable in everything, and below autograd ctxc::diffuse_backward and ctxc::ddim_update_backward. On
// the CPU the differentiable ones are ATen expressions; elsewhere one kernel each, computed in float32 and
// rounded once.
#pragma once
#include <optional>
#include <tuple>

#include "model/shapes.h"

namespace ctxc {

enum class Prediction { kVelocity, kClean };

/// Signal and noise amplitudes of log-SNRs [B, K] (or [B, K, Z], a level a dimension), shaped to multiply
/// latents.
struct Amplitudes {
  Amplitudes(const Tensor& log_snr, const Tensor& latent_BKZ);
  Tensor signal, noise;
};
/// zhat0 and epshat of what the denoiser predicted.
Tensor clean_of(const Amplitudes& at, const Tensor& z, const Tensor& predicted, Prediction kind);
Tensor eps_of(const Amplitudes& at, const Tensor& z, const Tensor& predicted, Prediction kind);

/// clean [..., Z]; log_snr [...], or [..., Z] with a level a dimension; eps may be undefined (none is added).
Tensor diffuse(const Tensor& clean, const Tensor& log_snr, const Tensor& eps);
/// The clean estimate, and z at the level `next_log_snr` (undefined without one).
std::tuple<Tensor, Tensor> ddim_update(const Tensor& z, const Tensor& predicted, const Tensor& log_snr,
                                       const std::optional<Tensor>& next_log_snr, Prediction kind);

/// The ATen expressions, for any device: what the kernels are compared with.
Tensor diffuse_reference(const Tensor& clean, const Tensor& log_snr, const std::optional<Tensor>& eps);
std::tuple<Tensor, Tensor> ddim_update_reference(const Tensor& z, const Tensor& predicted,
                                                 const Tensor& log_snr,
                                                 const std::optional<Tensor>& next_log_snr, bool velocity);

/// Through the forward and backward kernels on every device.
Tensor diffuse_by_kernel(const Tensor& clean, const Tensor& log_snr, const std::optional<Tensor>& eps);
std::tuple<Tensor, Tensor> ddim_update_by_kernel(const Tensor& z, const Tensor& predicted,
                                                 const Tensor& log_snr,
                                                 const std::optional<Tensor>& next_log_snr, bool velocity);

}  // namespace ctxc
