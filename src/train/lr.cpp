#include "train/lr.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace ctxc {

int64_t warmup_steps(double warmup, int64_t steps) {
  return static_cast<int64_t>(std::ceil(warmup < 1 ? warmup * static_cast<double>(steps) : warmup));
}

double learning_rate(const LrSchedule& schedule, int64_t step) {
  if (step < schedule.warmup)
    return schedule.peak * static_cast<double>(step + 1) / static_cast<double>(schedule.warmup);
  if (schedule.kind == "constant") return schedule.peak;
  const double span = static_cast<double>(std::max<int64_t>(1, schedule.steps - schedule.warmup));
  const double x = std::clamp(static_cast<double>(step - schedule.warmup) / span, 0.0, 1.0);
  const double share = schedule.kind == "cosine" ? 0.5 * (1 + std::cos(std::numbers::pi * x)) : 1 - x;
  return schedule.peak * (schedule.floor + (1 - schedule.floor) * share);
}

}  // namespace ctxc
