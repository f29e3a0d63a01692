#include "model/kernels/sinkhorn.h"

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <vector>

#include "core/error.h"
#include "model/kernels/operator.h"

namespace ctxc {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr double kSmallestMass = 1e-20;

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

Tensor gibbs_kernel(const Tensor& cost_NWK, double epsilon) {
  return (cost_NWK.to(at::kDouble) / -epsilon).exp_().contiguous();
}

std::tuple<Tensor, Tensor, Tensor> forward_cpu(const Tensor& cost_NWK, const Tensor& a_NW, const Tensor& b_NK,
                                               int64_t iterations, double epsilon) {
  const int64_t n = cost_NWK.size(0);
  const Shape s{cost_NWK.size(1), cost_NWK.size(2), iterations};
  const Tensor kernel = gibbs_kernel(cost_NWK, epsilon);
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
  Tensor plan =
      (kernel * alpha.select(1, -1).unsqueeze(2)).mul_(beta.select(1, -1).unsqueeze(1)).to(cost_NWK.dtype());
  return {plan, alpha, beta};
}

std::tuple<Tensor, Tensor> backward_cpu(const Tensor& grad_plan_NWK, const Tensor& cost_NWK,
                                        const Tensor& a_NW, const Tensor& b_NK, const Tensor& alpha,
                                        const Tensor& beta, double epsilon) {
  const Tensor kernel = gibbs_kernel(cost_NWK, epsilon);  // cheaper to compute again than to keep
  const Tensor a = a_NW.to(at::kDouble).contiguous(), b = b_NK.to(at::kDouble).contiguous();
  const Shape s{kernel.size(1), kernel.size(2), alpha.size(1)};
  Tensor grad_kernel = grad_plan_NWK.to(at::kDouble, /*non_blocking=*/false, /*copy=*/true).contiguous();
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
  return {grad_kernel.mul_(kernel).mul_(-1 / epsilon).to(cost_NWK.dtype()), grad_a.to(a_NW.dtype())};
}

std::tuple<Tensor, Tensor, Tensor> forward_meta(const Tensor& cost_NWK, const Tensor& a_NW,
                                                const Tensor& b_NK, int64_t iterations, double) {
  const int64_t n = cost_NWK.size(0);
  return {at::empty_like(cost_NWK), at::empty({n, iterations, a_NW.size(1)}, a_NW.options()),
          at::empty({n, iterations, b_NK.size(1)}, b_NK.options())};
}

std::tuple<Tensor, Tensor> backward_meta(const Tensor&, const Tensor& cost_NWK, const Tensor& a_NW,
                                         const Tensor&, const Tensor&, const Tensor&, double) {
  return {at::empty_like(cost_NWK), at::empty_like(a_NW)};
}

class SinkhornPlan : public torch::autograd::Function<SinkhornPlan> {
 public:
  static Tensor forward(AutogradContext* ctx, const Tensor& cost_NWK, const Tensor& a_NW, const Tensor& b_NK,
                        int64_t iterations, double epsilon) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [plan, u, v] = sinkhorn_forward(cost_NWK, a_NW, b_NK, iterations, epsilon);
    ctx->save_for_backward({cost_NWK, a_NW, b_NK, u, v});
    ctx->saved_data["epsilon"] = epsilon;
    return plan;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    auto [grad_cost, grad_a] = sinkhorn_backward(grads[0], saved[0], saved[1], saved[2], saved[3], saved[4],
                                                 ctx->saved_data["epsilon"].toDouble());
    return {grad_cost, grad_a, Tensor(), Tensor(), Tensor()};
  }
};

Tensor plan_autograd(const Tensor& cost_NWK, const Tensor& a_NW, const Tensor& b_NK, int64_t iterations,
                     double epsilon) {
  return SinkhornPlan::apply(cost_NWK, a_NW, b_NK, iterations, epsilon);
}

Tensor plan_alone(const Tensor& cost_NWK, const Tensor& a_NW, const Tensor& b_NK, int64_t iterations,
                  double epsilon) {
  return std::get<0>(sinkhorn_forward(cost_NWK, a_NW, b_NK, iterations, epsilon));
}

TORCH_LIBRARY_FRAGMENT(ctxc, m) {
  m.def("sinkhorn_plan(Tensor cost, Tensor a, Tensor b, int iterations, float epsilon) -> Tensor");
  m.def(
      "sinkhorn_forward(Tensor cost, Tensor a, Tensor b, int iterations, float epsilon) -> (Tensor, Tensor, "
      "Tensor)");
  m.def(
      "sinkhorn_backward(Tensor grad_plan, Tensor cost, Tensor a, Tensor b, Tensor u, Tensor v, float "
      "epsilon) "
      "-> (Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(ctxc, CPU, m) {
  m.impl("sinkhorn_forward", forward_cpu);
  m.impl("sinkhorn_backward", backward_cpu);
}
TORCH_LIBRARY_IMPL(ctxc, Meta, m) {
  m.impl("sinkhorn_forward", forward_meta);
  m.impl("sinkhorn_backward", backward_meta);
}
TORCH_LIBRARY_IMPL(ctxc, CompositeExplicitAutograd, m) {
  m.impl("sinkhorn_plan", plan_alone);
}
TORCH_LIBRARY_IMPL(ctxc, Autograd, m) {
  m.impl("sinkhorn_plan", plan_autograd);
}

}  // namespace

Tensor transport_plan(const Tensor& cost_NWK, const Tensor& a_NW, const Tensor& b_NK, int64_t iterations,
                      double epsilon) {
  CTXC_CHECK(iterations > 0, ErrorKind::kUsage, "set compressor.sinkhorn_iterations to 1 or more",
             "sinkhorn: no iterations (found {}, expected at least 1)", iterations);
  static const auto op = find_operator<Tensor(const Tensor&, const Tensor&, const Tensor&, int64_t, double)>(
      "ctxc::sinkhorn_plan");
  return op.call(cost_NWK, a_NW, b_NK, iterations, epsilon);
}

std::tuple<Tensor, Tensor, Tensor> sinkhorn_forward(const Tensor& cost_NWK, const Tensor& a_NW,
                                                    const Tensor& b_NK, int64_t iterations, double epsilon) {
  static const auto op = find_operator<std::tuple<Tensor, Tensor, Tensor>(
      const Tensor&, const Tensor&, const Tensor&, int64_t, double)>("ctxc::sinkhorn_forward");
  return op.call(cost_NWK, a_NW, b_NK, iterations, epsilon);
}

std::tuple<Tensor, Tensor> sinkhorn_backward(const Tensor& grad_plan_NWK, const Tensor& cost_NWK,
                                             const Tensor& a_NW, const Tensor& b_NK, const Tensor& u_NTW,
                                             const Tensor& v_NTK, double epsilon) {
  static const auto op = find_operator<std::tuple<Tensor, Tensor>(
      const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, double)>(
      "ctxc::sinkhorn_backward");
  return op.call(grad_plan_NWK, cost_NWK, a_NW, b_NK, u_NTW, v_NTK, epsilon);
}

}  // namespace ctxc
