#include "cuda_ext/operator_support.h"

namespace ctxc::cuda {
namespace {

SinkhornSize size_of(const Tensor& cost_NWK, const Tensor& a_NW, const Tensor& b_NK, int64_t iterations,
                     double epsilon) {
  TORCH_CHECK(cost_NWK.dim() == 3 && a_NW.dim() == 2 && b_NK.dim() == 2,
              "ctxc: sinkhorn takes [N, W, K], [N, W], [N, K]");
  const int64_t n = cost_NWK.size(0), w = cost_NWK.size(1), k = cost_NWK.size(2);
  TORCH_CHECK(a_NW.size(0) == n && a_NW.size(1) == w && b_NK.size(0) == n && b_NK.size(1) == k,
              "ctxc: sinkhorn: masses do not fit the cost (found ", a_NW.sizes(), " and ", b_NK.sizes(),
              " for ", cost_NWK.sizes(), ")");
  int_of(w * k, "window");
  check_rows(n);
  return {n, int_of(w, "window"), int_of(k, "window"), int_of(iterations, "iterations"), epsilon};
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor> sinkhorn_forward(const Tensor& cost_NWK, const Tensor& a_NW,
                                                    const Tensor& b_NK, int64_t iterations, double epsilon) {
  const c10::DeviceGuard guard(cost_NWK.device());
  const SinkhornSize size = size_of(cost_NWK, a_NW, b_NK, iterations, epsilon);
  const auto options = cost_NWK.options().dtype(wide(cost_NWK));
  const Tensor cost = cost_NWK.contiguous(), a = a_NW.to(wide(cost)).contiguous(),
               b = b_NK.to(wide(cost)).contiguous();
  Tensor plan = at::empty_like(cost);
  const auto fresh = [&](int64_t width) {
    const std::vector<int64_t> shape = {size.windows, iterations, width};
    return cost.numel() == 0 ? at::zeros(shape, options) : at::empty(shape, options);
  };
  Tensor u = fresh(size.rows), v = fresh(size.columns);
  check_started(sinkhorn_forward(type_of(cost), cost.const_data_ptr(), a.const_data_ptr(), b.const_data_ptr(),
                                 plan.mutable_data_ptr(), u.mutable_data_ptr(), v.mutable_data_ptr(), size,
                                 stream_of(cost)),
                "sinkhorn_forward");
  return {plan, u, v};
}

std::tuple<Tensor, Tensor> sinkhorn_backward(const Tensor& grad_plan_NWK, const Tensor& cost_NWK,
                                             const Tensor& a_NW, const Tensor& b_NK, const Tensor& u_NTW,
                                             const Tensor& v_NTK, double epsilon) {
  const c10::DeviceGuard guard(cost_NWK.device());
  const SinkhornSize size = size_of(cost_NWK, a_NW, b_NK, u_NTW.size(1), epsilon);
  const Tensor cost = cost_NWK.contiguous(), grad_plan = grad_plan_NWK.to(cost.scalar_type()).contiguous();
  const Tensor a = a_NW.to(wide(cost)).contiguous(), b = b_NK.to(wide(cost)).contiguous();
  Tensor grad_cost = at::empty_like(cost, cost.options().dtype(wide(cost)));
  Tensor grad_a = cost.numel() == 0 ? at::zeros_like(a) : at::empty_like(a);
  check_started(sinkhorn_backward(type_of(cost), grad_plan.const_data_ptr(), cost.const_data_ptr(),
                                  a.const_data_ptr(), b.const_data_ptr(), u_NTW.contiguous().const_data_ptr(),
                                  v_NTK.contiguous().const_data_ptr(), grad_cost.mutable_data_ptr(),
                                  grad_a.mutable_data_ptr(), size, stream_of(cost)),
                "sinkhorn_backward");
  return {grad_cost.to(cost.scalar_type()), grad_a.to(a_NW.scalar_type())};
}

}  // namespace ctxc::cuda
