#include "model/blocks/noise_schedule.h"

#include <cmath>

namespace ctxc {
namespace {

/// SNR from which on min-SNR weights no longer grow.
constexpr double kLargestSnr = 5;

constexpr double kB0 = kScheduleSteps * kFirstBeta, kB1 = kScheduleSteps * kLastBeta;

/// ln abar at the end of the linear schedule, where the cosine one ends too.
constexpr double kEnd = -(kB1 - kB0) / 2 - kB0;

double cosine_rate() {
  return std::acos(std::exp(kEnd / 2));
}

}  // namespace

Tensor linear_schedule_table() {
  Tensor table = at::ones({kScheduleSteps + 1}, at::kDouble);
  double* abar = table.mutable_data_ptr<double>();
  for (int64_t t = 1; t <= kScheduleSteps; ++t) {
    const double share = static_cast<double>(t - 1) / static_cast<double>(kScheduleSteps - 1);
    abar[t] = abar[t - 1] * (1 - (kFirstBeta + share * (kLastBeta - kFirstBeta)));
  }
  return table;
}

NoiseSchedule::NoiseSchedule(Kind kind, bool zero_terminal_snr)
    : kind_(kind), terminal_(zero_terminal_snr ? std::exp(kEnd / 2) : 0) {}

Tensor NoiseSchedule::log_abar(const Tensor& s) const {
  // 2 ln cos x = ln(1 - sin^2 x), exact where the cosine is 1
  const Tensor plain = kind_ == Kind::kLinear ? s * (s * (-(kB1 - kB0) / 2) - kB0)
                                              : (-(s * cosine_rate()).sin().square()).log1p();
  if (terminal_ == 0) return plain;
  // sqrt(abar') = (sqrt(abar) - q) / (1 - q) = 1 + (sqrt(abar) - 1) / (1 - q)
  const Tensor root = ((plain / 2).expm1() / (1 - terminal_)).clamp_min(-1 + 1e-6);
  return root.log1p() * 2;
}

Tensor NoiseSchedule::log_snr(const Tensor& s) const {
  const Tensor signal = log_abar(s.clamp_min(1e-8));
  return (signal - (-signal.expm1()).log()).clamp(-kLogSnrBound, kLogSnrBound);
}

Tensor NoiseSchedule::level(const Tensor& log_snr) const {
  Tensor lam = log_snr;
  if (terminal_ > 0) {
    // back to the schedule without the shift: sqrt(abar) = sqrt(abar') (1 - q) + q
    const Tensor root = (at::log_sigmoid(lam) / 2).exp();
    const Tensor abar = (root * (1 - terminal_) + terminal_).square();
    lam = abar.log() - (1 - abar).clamp_min(1e-12).log();
  }
  Tensor s;
  if (kind_ == Kind::kLinear) {
    const Tensor x = at::softplus(-lam);
    s = x * 2 / ((x * (2 * (kB1 - kB0)) + kB0 * kB0).sqrt() + kB0);
  } else {
    s = (lam * -0.5).exp().atan() / cosine_rate();
  }
  return s.clamp_max(1);
}

Tensor min_snr_weight(const Tensor& log_snr, bool of_clean) {
  const Tensor snr = log_snr.exp(), kept = snr.clamp_max(kLargestSnr);
  return of_clean ? kept : kept / (snr + 1);
}

}  // namespace ctxc
