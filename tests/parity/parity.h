// Comparing traced tensors with golden ones.
#pragma once
#include <map>
#include <set>
#include <string>

#include "eval/trace.h"
#include "model/weights.h"
#include "testing.h"

namespace ctxc::testing {

using Tensors = std::map<std::string, Tensor>;

/// Largest difference relative to the largest golden entry.
inline double relative_difference(const Tensor& found, const Tensor& golden) {
  if (golden.numel() == 0) return 0;
  const Tensor expected = golden.to(at::kDouble);
  const double scale = std::max(expected.abs().max().item<double>(), 1e-12);
  return (found.to(at::kDouble) - expected).abs().max().item<double>() / scale;
}

inline void expect_close(const std::string& name, const Tensor& found, const Tensor& golden, double limit) {
  ASSERT_EQ(found.sizes(), golden.sizes()) << name;
  EXPECT_LT(relative_difference(found, golden), limit) << name;
}

/// Names whose rows on context padding are arbitrary in the goldens.
inline Tensor without_padding(const std::string& name, const Tensor& tensor, const Tensor& mask_BN) {
  if (name == "hidden_states") return tensor * mask_BN.unsqueeze(0).unsqueeze(-1);
  if (name == "fused" || name == "layer_weights") return tensor * mask_BN.unsqueeze(-1);
  return tensor;
}

/// Every tensor of `golden` that is no input, against `outputs`: token ids and masks equal, gradients within
/// 2e-3 of their largest entry, the rest within 1e-4; `idle` gradients are rounding noise around 0.
inline void expect_equal_trace(const TraceOutputs& outputs, const Tensors& golden,
                               const std::set<std::string>& idle = {},
                               const std::set<std::string>& skip = {}) {
  const Tensors found(outputs.begin(), outputs.end());
  for (const auto& [name, expected] : golden) {
    if (name.starts_with("in.") || name.starts_with("in2.") || skip.count(name)) continue;
    const auto it = found.find(name);
    ASSERT_NE(it, found.end()) << name << " is not traced";
    if (idle.count(name)) {
      EXPECT_LT(it->second.abs().max().item<double>(), 1e-6) << name;
      continue;
    }
    if (!expected.is_floating_point()) {
      EXPECT_TRUE(at::equal(it->second, expected)) << name;
      continue;
    }
    Tensor ours = it->second, theirs = expected;
    if (golden.count("context_mask_left")) {
      ours = without_padding(name, ours, golden.at("context_mask_left"));
      theirs = without_padding(name, theirs, golden.at("context_mask_left"));
    }
    expect_close(name, ours, theirs, name.starts_with("grad.") ? 2e-3 : 1e-4);
  }
}

}  // namespace ctxc::testing
