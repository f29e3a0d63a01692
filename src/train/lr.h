// The learning rate as a function of the step, so that there is nothing to save.
#pragma once
#include <cstdint>
#include <string>

namespace ctxc {

struct LrSchedule {
  double peak = 1e-4;
  std::string kind = "linear";  ///< linear | cosine | constant
  int64_t warmup = 0;           ///< steps
  int64_t steps = 1;            ///< of the run
  double floor = 0;             ///< share of the peak at the end of the decay
};

/// `warmup` below 1 is a share of `steps` (rounded up), else steps.
int64_t warmup_steps(double warmup, int64_t steps);
/// Step s (from 0) of n with w of warm-up: (s + 1) / w of the peak while s < w; then, with x = (s - w) / (n -
/// w):
///   linear 1 - x, cosine (1 + cos(pi x)) / 2, constant 1; scaled so that the decay ends at `floor`.
double learning_rate(const LrSchedule& schedule, int64_t step);

}  // namespace ctxc
