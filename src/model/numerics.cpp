#include "model/numerics.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <vector>

#include "core/error.h"

namespace ctxc {
namespace {

constexpr double kSmallestMass = 1e-20;
constexpr double kMasked = -1e9;
constexpr double kLargestExponent =
    300;  // e^±300 leaves double room for products of a kernel entry and both scalings

/// One window: `w` rows, `k` columns, row-major kernel.
struct Shape {
  int64_t w, k, iterations;
};

/// out_W = kernel beta
void times(const double* kernel, const double* beta, double* out, Shape s) {
  for (int64_t i = 0; i < s.w; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < s.k; ++j) sum += kernel[i * s.k + j] * beta[j];
    out[i] = sum;
  }
}

/// out_K = kernel^T alpha; rows without mass are skipped.
void transposed_times(const double* kernel, const double* alpha, double* out, Shape s) {
  std::fill(out, out + s.k, 0.0);
  for (int64_t i = 0; i < s.w; ++i) {
    if (alpha[i] == 0) continue;
    for (int64_t j = 0; j < s.k; ++j) out[j] += kernel[i * s.k + j] * alpha[i];
  }
}

/// All iterations of one window; alpha [iterations, W] and beta [iterations, K] keep every one of them.
void iterate(const double* kernel, const double* a, const double* b, double* alpha, double* beta, Shape s) {
  std::vector<double> ones(s.k, 1.0);
  const double* previous = ones.data();
  for (int64_t t = 0; t < s.iterations; ++t, alpha += s.w, beta += s.k) {
    times(kernel, previous, alpha, s);
    for (int64_t i = 0; i < s.w; ++i) alpha[i] = a[i] == 0 ? 0 : std::max(a[i], kSmallestMass) / alpha[i];
    transposed_times(kernel, alpha, beta, s);
    for (int64_t j = 0; j < s.k; ++j) beta[j] = b[j] > 0 ? b[j] / beta[j] : 0;
    previous = beta;
  }
}

/// Reverse of iterate() and of P = alpha kernel beta. `grad_kernel` comes in as dL/dP and leaves as
/// dL/dkernel. From alpha = a / (kernel beta'): d(kernel beta') = -d(alpha) alpha / s with 1 / s = alpha / a,
/// and likewise for beta.
void reverse(const double* kernel, const double* a, const double* b, const double* alpha, const double* beta,
             double* grad_kernel, double* grad_a, Shape s) {
  std::vector<double> grad_alpha(s.w, 0.0), grad_beta(s.k, 0.0), ones(s.k, 1.0);
  const double* alpha_t = alpha + (s.iterations - 1) * s.w;
  const double* beta_t = beta + (s.iterations - 1) * s.k;
  for (int64_t i = 0; i < s.w; ++i)
    for (int64_t j = 0; j < s.k; ++j) {
      double& g = grad_kernel[i * s.k + j];
      grad_alpha[i] += g * kernel[i * s.k + j] * beta_t[j];
      grad_beta[j] += g * kernel[i * s.k + j] * alpha_t[i];
      g *= alpha_t[i] * beta_t[j];
    }
  for (int64_t t = s.iterations - 1; t >= 0; --t) {
    alpha_t = alpha + t * s.w;
    beta_t = beta + t * s.k;
    const double* before = t > 0 ? beta_t - s.k : ones.data();
    for (int64_t j = 0; j < s.k; ++j)
      grad_beta[j] = b[j] > 0 ? -grad_beta[j] * beta_t[j] * beta_t[j] / b[j] : 0;
    std::vector<double> grad_before(s.k, 0.0);
    for (int64_t i = 0; i < s.w; ++i) {
      if (a[i] == 0) continue;
      const double* row = kernel + i * s.k;
      double* grad_row = grad_kernel + i * s.k;
      double sum = t == s.iterations - 1 ? grad_alpha[i] : 0;
      for (int64_t j = 0; j < s.k; ++j) sum += row[j] * grad_beta[j];
      const double inverse = alpha_t[i] / std::max(a[i], kSmallestMass);
      if (a[i] >= kSmallestMass) grad_a[i] += sum * inverse;
      const double through = -sum * alpha_t[i] * inverse;
      for (int64_t j = 0; j < s.k; ++j) {
        grad_row[j] += alpha_t[i] * grad_beta[j] + through * before[j];
        grad_before[j] += through * row[j];
      }
    }
    grad_beta.swap(grad_before);
  }
}

class SinkhornPlan : public torch::autograd::Function<SinkhornPlan> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& cost_NWK, const Tensor& a_NW,
                        const Tensor& b_NK, int64_t iterations, double epsilon) {
    const int64_t n = cost_NWK.size(0);
    const Shape s{cost_NWK.size(1), cost_NWK.size(2), iterations};
    const Tensor kernel = (cost_NWK.to(at::kDouble) / -epsilon).exp_().contiguous();
    const Tensor a = a_NW.to(at::kDouble).contiguous(), b = b_NK.to(at::kDouble).contiguous();
    Tensor alpha = at::empty({n, iterations, s.w}, kernel.options());
    Tensor beta = at::empty({n, iterations, s.k}, kernel.options());
    const double *kernel_data = kernel.const_data_ptr<double>(), *a_data = a.const_data_ptr<double>(),
                 *b_data = b.const_data_ptr<double>();
    double *alpha_data = alpha.mutable_data_ptr<double>(), *beta_data = beta.mutable_data_ptr<double>();
    at::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
      for (int64_t w = begin; w < end; ++w)
        iterate(kernel_data + w * s.w * s.k, a_data + w * s.w, b_data + w * s.k,
                alpha_data + w * iterations * s.w, beta_data + w * iterations * s.k, s);
    });
    ctx->save_for_backward({kernel, a, b, alpha, beta});
    ctx->saved_data["epsilon"] = epsilon;
    return (kernel * alpha.select(1, -1).unsqueeze(2))
        .mul_(beta.select(1, -1).unsqueeze(1))
        .to(cost_NWK.dtype());
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &kernel = saved[0], &a = saved[1], &b = saved[2], &alpha = saved[3], &beta = saved[4];
    const Shape s{kernel.size(1), kernel.size(2), alpha.size(1)};
    Tensor grad_kernel = grads[0].to(at::kDouble, /*non_blocking=*/false, /*copy=*/true).contiguous();
    Tensor grad_a = at::zeros_like(a);
    const double *kernel_data = kernel.const_data_ptr<double>(), *a_data = a.const_data_ptr<double>(),
                 *b_data = b.const_data_ptr<double>(), *alpha_data = alpha.const_data_ptr<double>(),
                 *beta_data = beta.const_data_ptr<double>();
    double *grad_data = grad_kernel.mutable_data_ptr<double>(),
           *grad_a_data = grad_a.mutable_data_ptr<double>();
    at::parallel_for(0, kernel.size(0), 1, [&](int64_t begin, int64_t end) {
      for (int64_t w = begin; w < end; ++w)
        reverse(kernel_data + w * s.w * s.k, a_data + w * s.w, b_data + w * s.k,
                alpha_data + w * s.iterations * s.w, beta_data + w * s.iterations * s.k,
                grad_data + w * s.w * s.k, grad_a_data + w * s.w, s);
    });
    const double epsilon = ctx->saved_data["epsilon"].toDouble();
    const auto dtype = grads[0].scalar_type();
    return {grad_kernel.mul_(kernel).mul_(-1 / epsilon).to(dtype), grad_a.to(dtype), Tensor(), Tensor(),
            Tensor()};
  }
};

}  // namespace

Tensor sinkhorn_plan(const Tensor& cost_NWK, const Tensor& a_NW, const Tensor& b_NK, int64_t iterations,
                     double epsilon) {
  if (!cost_NWK.is_cpu()) return sinkhorn_plan_plain(cost_NWK, a_NW, b_NK, iterations, epsilon);
  // A NaN passes: it belongs in the loss, where the trainer stops with a report.
  CTXC_CHECK(
      cost_NWK.numel() == 0 || !(cost_NWK.detach().abs().max().item<double>() > kLargestExponent * epsilon),
      ErrorKind::kUsage, "raise compressor.epsilon",
      "sinkhorn: epsilon too small for these costs (found {}, expected at least max|cost| / {})", epsilon,
      kLargestExponent);
  return SinkhornPlan::apply(cost_NWK, a_NW, b_NK, iterations, epsilon);
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
