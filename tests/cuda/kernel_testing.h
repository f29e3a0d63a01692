// What the kernel tests share: tensors that depend on an index alone, comparison, the schedules to run under,
// and gradients by finite differences.
#pragma once
#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <vector>

#include "core/random.h"
#include "cuda_ext/host/block.h"
#include "cuda_ext/operators.h"
#include "model/shapes.h"

namespace ctxc::testing {

/// Uniform in [low, high), drawn in double and rounded to the type.
inline Tensor uniform(at::IntArrayRef shape, uint64_t index, double low = -1, double high = 1,
                      at::ScalarType dtype = at::kDouble) {
  Tensor tensor = at::empty(shape, at::kDouble);
  CounterRng rng(17, "cuda_tests", 0, index);
  double* values = tensor.mutable_data_ptr<double>();
  for (int64_t i = 0; i < tensor.numel(); ++i) values[i] = low + (high - low) * rng.uniform();
  return tensor.to(dtype);
}

/// Largest difference over the largest expected magnitude (at least 1e-30); NaN where either has one.
inline double relative_difference(const Tensor& found, const Tensor& expected) {
  EXPECT_EQ(found.sizes(), expected.sizes());
  if (found.sizes() != expected.sizes()) return 1e30;
  if (expected.numel() == 0) return 0;
  const Tensor wide = expected.detach().to(at::kDouble);
  return (found.detach().to(at::kDouble) - wide).abs().max().item<double>() /
         std::max(wide.abs().max().item<double>(), 1e-30);
}

/// What a kernel of this type may differ from exact arithmetic.
inline double tolerance(at::ScalarType dtype) {
  return dtype == at::kDouble ? 1e-12 : dtype == at::kFloat ? 2e-5 : 1e-2;
}

/// `run` first to last, and in three drawn orders ($CTXC_TEST_SCHEDULES of them) that must give the same
/// bits.
inline std::vector<Tensor> under_all_schedules(const std::function<std::vector<Tensor>()>& run) {
  const std::vector<Tensor> first = run();
  const char* asked = std::getenv("CTXC_TEST_SCHEDULES");
  const uint64_t orders = asked ? std::strtoull(asked, nullptr, 10) : 3;
  for (uint64_t seed = 1; seed <= orders; ++seed) {
    const cuda::host::ScheduleSeed schedule(seed);
    const std::vector<Tensor> again = run();
    for (size_t i = 0; i < first.size(); ++i)
      EXPECT_EQ(relative_difference(again[i].nan_to_num(7), first[i].nan_to_num(7)), 0)
          << "result " << i << " depends on the order of threads (seed " << seed << ")";
  }
  return first;
}

/// d value / d x, element by element, by central differences.
inline Tensor numeric_gradient(const std::function<double(const Tensor&)>& value, const Tensor& x,
                               double step = 1e-6) {
  Tensor gradient = at::zeros_like(x);
  for (int64_t i = 0; i < x.numel(); ++i) {
    Tensor up = x.clone(), down = x.clone();
    up.view(-1)[i] += step;
    down.view(-1)[i] -= step;
    gradient.view(-1)[i] = (value(up) - value(down)) / (2 * step);
  }
  return gradient;
}

inline double weighted_sum(const Tensor& x, const Tensor& weight) {
  return (x * weight).sum().item<double>();
}

}  // namespace ctxc::testing
