// Noise schedules of the diffusion-noise compressor (diffusion.md section 4), as functions of the level s = t
// / T in [0, 1], with abar(s) the share of the signal's power that is left and log-SNR lam = ln(abar / (1 -
// abar)).
//   linear  beta_t = b_1 + (t - 1) / (T - 1) (b_T - b_1), abar_t = prod (1 - beta) (Ho et al., DDPM, 2020), T
//   =
//           1000, b_1 = 1e-4, b_T = 0.02. Continuous form, B0 = T b_1, B1 = T b_T:
//           ln abar(s) = -(B1 - B0) s^2 / 2 - B0 s;  with x = -ln abar:
//           s = 2 x / (B0 + sqrt(B0^2 + 2 (B1 - B0) x))   (no cancellation at small x)
//   cosine  abar(s) = cos^2(kappa s), kappa so that it ends where the linear one ends (Nichol & Dhariwal,
//   2021)
// zero_terminal_snr: sqrt(abar) is shifted and scaled so that abar(1) = 0 (Lin et al., arXiv 2305.08891).
// 1 - abar is always -expm1(ln abar) or sigmoid(-lam). Nothing here is infinite: log-SNRs stay in
// +-kLogSnrBound.
#pragma once
#include "model/shapes.h"

namespace ctxc {

constexpr int64_t kScheduleSteps = 1000;
constexpr double kFirstBeta = 1e-4, kLastBeta = 0.02;
constexpr double kLogSnrBound = 20;

/// abar_0 = 1, abar_1, ..., abar_T of the discrete linear schedule: float64 [T + 1].
Tensor linear_schedule_table();

class NoiseSchedule {
 public:
  enum class Kind { kLinear, kCosine };
  explicit NoiseSchedule(Kind kind = Kind::kLinear, bool zero_terminal_snr = false);

  /// Elementwise, in the floating type of the argument; s in [0, 1].
  Tensor log_abar(const Tensor& s) const;
  Tensor log_snr(const Tensor& s) const;
  /// The level of a log-SNR, at most 1: s(abar) with abar = sigmoid(lam).
  Tensor level(const Tensor& log_snr) const;

 private:
  Kind kind_;
  double terminal_ = 0;  ///< sqrt(abar(1)) that zero_terminal_snr takes away
};

/// min(SNR, 5) / (SNR + 1): what the squared error of a predicted v weighs at a log-SNR, elementwise
/// (min-SNR-5 in its v form: Hang et al., arXiv 2303.09556). `of_clean`: what that of a predicted z0 weighs,
/// min(SNR, 5): the same term, since ||v error||^2 = (SNR + 1) ||z0 error||^2.
Tensor min_snr_weight(const Tensor& log_snr, bool of_clean = false);

}  // namespace ctxc
