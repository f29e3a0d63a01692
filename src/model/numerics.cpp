#include "model/numerics.h"

#include "core/error.h"
#include "model/kernels/sinkhorn.h"

namespace ctxc {
namespace {

constexpr double kSmallestMass = 1e-20;
constexpr double kMasked = -1e9;
constexpr double kLargestExponent =
    300;  // e^±300 leaves double room for products of a kernel entry and both scalings

}  // namespace

Tensor sinkhorn_plan(const Tensor& cost_NWK, const Tensor& a_NW, const Tensor& b_NK, int64_t iterations,
                     double epsilon) {
  // Only the CPU computes in the scaling form. A NaN passes: it belongs in the loss, where the trainer stops
  // with a report.
  CTXC_CHECK(!cost_NWK.is_cpu() || cost_NWK.numel() == 0 ||
                 !(cost_NWK.detach().abs().max().item<double>() > kLargestExponent * epsilon),
             ErrorKind::kUsage, "raise compressor.epsilon",
             "sinkhorn: epsilon too small for these costs (found {}, expected at least max|cost| / {})",
             epsilon, kLargestExponent);
  return transport_plan(cost_NWK, a_NW, b_NK, iterations, epsilon);
}

Tensor sinkhorn_plan_plain(const Tensor& cost_NWK, const Tensor& a_NW, const Tensor& b_NK, int64_t iterations,
                           double epsilon) {
  const Tensor kernel_NWK = cost_NWK / -epsilon;
  const Tensor empty_row_NW = a_NW.le(0), empty_column_NK = b_NK.le(0);
  const Tensor log_a_NW = a_NW.clamp_min(kSmallestMass).log(), log_b_NK = b_NK.clamp_min(kSmallestMass).log();
  Tensor u_NW = at::zeros_like(a_NW), v_NK = at::zeros_like(b_NK);
  for (int64_t t = 0; t < iterations; ++t) {
    u_NW = (log_a_NW - (kernel_NWK + v_NK.unsqueeze(1)).logsumexp(2)).masked_fill(empty_row_NW, kMasked);
    v_NK = (log_b_NK - (kernel_NWK + u_NW.unsqueeze(2)).logsumexp(1)).masked_fill(empty_column_NK, kMasked);
  }
  return (kernel_NWK + u_NW.unsqueeze(2) + v_NK.unsqueeze(1))
      .exp()
      .masked_fill(empty_row_NW.unsqueeze(2).logical_or(empty_column_NK.unsqueeze(1)), 0);
}

}  // namespace ctxc
