// The transport plan of model/numerics.h as operators.
//   ctxc::sinkhorn_plan(cost, a, b, iterations, epsilon) -> plan                     differentiable in cost
//   and a ctxc::sinkhorn_forward(…) -> (plan, u, v);  ctxc::sinkhorn_backward(grad_plan, cost, a, b, u, v,
//   epsilon)
// u [N, T, W] and v [N, T, K] keep every iteration in the form the device computes in:
//   CPU   scaling form, double: alpha = e^u, beta = e^v; two matrix-vector products an iteration
//   CUDA  log domain, float32 (double for double)
#pragma once
#include <tuple>

#include "model/shapes.h"

namespace ctxc {

Tensor transport_plan(const Tensor& cost_NWK, const Tensor& a_NW, const Tensor& b_NK, int64_t iterations,
                      double epsilon);

/// Plan, u, v.
std::tuple<Tensor, Tensor, Tensor> sinkhorn_forward(const Tensor& cost_NWK, const Tensor& a_NW,
                                                    const Tensor& b_NK, int64_t iterations, double epsilon);
/// Gradients of cost (in its type) and a.
std::tuple<Tensor, Tensor> sinkhorn_backward(const Tensor& grad_plan_NWK, const Tensor& cost_NWK,
                                             const Tensor& a_NW, const Tensor& b_NK, const Tensor& u_NTW,
                                             const Tensor& v_NTK, double epsilon);

}  // namespace ctxc
