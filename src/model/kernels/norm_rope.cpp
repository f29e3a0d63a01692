#include "model/kernels/norm_rope.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "model/kernels/operator.h"

namespace ctxc {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

at::ScalarType wide(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

std::tuple<Tensor, Tensor> norm_forward_cpu(const Tensor& x, const Tensor& weight_D, double eps) {
  const Tensor wide_x = x.to(wide(x));
  const Tensor inverse = wide_x.square().mean(-1, /*keepdim=*/true).add_(eps).rsqrt_();
  return {(wide_x * inverse * weight_D.to(wide(x))).to(x.scalar_type()), inverse.flatten()};
}

Tensor norm_backward_cpu(const Tensor& grad_y, const Tensor& x, const Tensor& weight_D,
                         const Tensor& inverse) {
  const Tensor wide_x = x.to(wide(x)), pulled = grad_y.to(wide(x)) * weight_D.to(wide(x));
  auto shape = x.sizes().vec();
  shape.back() = 1;
  const Tensor r = inverse.view(shape);
  return (pulled * r - wide_x * r.pow(3) * (pulled * wide_x).mean(-1, /*keepdim=*/true)).to(x.scalar_type());
}

std::tuple<Tensor, Tensor> norm_forward_meta(const Tensor& x, const Tensor&, double) {
  return {at::empty_like(x),
          at::empty({x.numel() / std::max<int64_t>(1, x.size(-1))}, x.options().dtype(wide(x)))};
}
Tensor norm_backward_meta(const Tensor&, const Tensor& x, const Tensor&, const Tensor&) {
  return at::empty_like(x);
}

std::tuple<Tensor, Tensor> call_norm_forward(const Tensor& x, const Tensor& weight_D, double eps) {
  static const auto op = find_operator<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, double)>(
      "ctxc::rms_norm_forward");
  return op.call(x, weight_D, eps);
}
Tensor call_norm_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight_D,
                          const Tensor& inverse) {
  static const auto op = find_operator<Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&)>(
      "ctxc::rms_norm_backward");
  return op.call(grad_y, x, weight_D, inverse);
}

struct RmsNorm : Function<RmsNorm> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& weight_D, double eps) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [y, inverse] = call_norm_forward(x, weight_D, eps);
    ctx->save_for_backward({x, weight_D, inverse});
    return y;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &weight_D = saved[1], &inverse = saved[2];
    Tensor grad_x, grad_D;
    if (ctx->needs_input_grad(0)) grad_x = call_norm_backward(grads[0], x, weight_D, inverse);
    if (ctx->needs_input_grad(1))
      grad_D = (grads[0].to(wide(x)) * x.to(wide(x)))
                   .reshape({-1, x.size(-1)})
                   .mul(inverse.unsqueeze(1))
                   .sum(0)
                   .to(weight_D.scalar_type());
    return {grad_x, grad_D, Tensor()};
  }
};

Tensor norm_autograd(const Tensor& x, const Tensor& weight_D, double eps) {
  return x.is_cpu() ? rms_norm_reference(x, weight_D, eps) : rms_norm_by_kernel(x, weight_D, eps);
}
Tensor norm_alone(const Tensor& x, const Tensor& weight_D, double eps) {
  return std::get<0>(call_norm_forward(x, weight_D, eps));
}

std::tuple<Tensor, Tensor> call_rope(const Tensor& q_PHE, const Tensor& k_PGE, const Tensor& cos,
                                     const Tensor& sin, int64_t direction) {
  static const auto op = find_operator<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                                                  const Tensor&, int64_t)>("ctxc::rope_qk");
  return op.call(q_PHE, k_PGE, cos, sin, direction);
}

struct RopeQk : Function<RopeQk> {
  static variable_list forward(AutogradContext* ctx, const Tensor& q_PHE, const Tensor& k_PGE,
                               const Tensor& cos, const Tensor& sin, int64_t direction) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({cos, sin});
    ctx->saved_data["direction"] = direction;
    auto [q, k] = call_rope(q_PHE, k_PGE, cos, sin, direction);
    return {q, k};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::AutoDispatchBelowADInplaceOrView guard;
    auto [q, k] = call_rope(grads[0], grads[1], saved[0], saved[1], -ctx->saved_data["direction"].toInt());
    return {q, k, Tensor(), Tensor(), Tensor()};
  }
};

std::tuple<Tensor, Tensor> rope_cpu(const Tensor& q_PHE, const Tensor& k_PGE, const Tensor& cos,
                                    const Tensor& sin, int64_t direction) {
  const Tensor turned = direction < 0 ? -sin : sin;
  return {rope_reference(q_PHE, cos, turned), rope_reference(k_PGE, cos, turned)};
}
std::tuple<Tensor, Tensor> rope_meta(const Tensor& q_PHE, const Tensor& k_PGE, const Tensor&, const Tensor&,
                                     int64_t) {
  return {at::empty_like(q_PHE), at::empty_like(k_PGE)};
}
std::tuple<Tensor, Tensor> rope_autograd(const Tensor& q_PHE, const Tensor& k_PGE, const Tensor& cos,
                                         const Tensor& sin, int64_t direction) {
  return q_PHE.is_cpu() ? rope_cpu(q_PHE, k_PGE, cos, sin, direction)
                        : rope_qk_by_kernel(q_PHE, k_PGE, cos, sin, direction);
}

TORCH_LIBRARY_FRAGMENT(ctxc, m) {
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> Tensor");
  m.def("rms_norm_forward(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)");
  m.def("rms_norm_backward(Tensor grad_y, Tensor x, Tensor weight, Tensor inverse) -> Tensor");
  m.def("rope_qk(Tensor q, Tensor k, Tensor cos, Tensor sin, int direction) -> (Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(ctxc, CPU, m) {
  m.impl("rms_norm_forward", norm_forward_cpu);
  m.impl("rms_norm_backward", norm_backward_cpu);
  m.impl("rope_qk", rope_cpu);
}
TORCH_LIBRARY_IMPL(ctxc, Meta, m) {
  m.impl("rms_norm_forward", norm_forward_meta);
  m.impl("rms_norm_backward", norm_backward_meta);
  m.impl("rope_qk", rope_meta);
}
TORCH_LIBRARY_IMPL(ctxc, CompositeExplicitAutograd, m) {
  m.impl("rms_norm", norm_alone);
}
TORCH_LIBRARY_IMPL(ctxc, Autograd, m) {
  m.impl("rms_norm", norm_autograd);
  m.impl("rope_qk", rope_autograd);
}

}  // namespace

Tensor rms_norm_reference(const Tensor& x, const Tensor& weight_D, double eps) {
  const Tensor wide_x = x.to(wide(x));
  const Tensor scale = wide_x.square().mean(-1, /*keepdim=*/true).add_(eps).rsqrt_();
  return (wide_x * scale * weight_D.to(wide(x))).to(x.scalar_type());
}

Tensor rope_reference(const Tensor& x_PHE, const Tensor& cos, const Tensor& sin) {
  const auto halves = x_PHE.chunk(2, -1);
  return at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1);
}

Tensor rms_norm_by_kernel(const Tensor& x, const Tensor& weight_D, double eps) {
  return RmsNorm::apply(x, weight_D, eps);
}

std::tuple<Tensor, Tensor> rope_qk_by_kernel(const Tensor& q_PHE, const Tensor& k_PGE, const Tensor& cos,
                                             const Tensor& sin, int64_t direction) {
  const variable_list result = RopeQk::apply(q_PHE, k_PGE, cos, sin, direction);
  return {result[0], result[1]};
}

Tensor rms_norm_rows(const Tensor& x, const Tensor& weight_D, double eps) {
  static const auto op = find_operator<Tensor(const Tensor&, const Tensor&, double)>("ctxc::rms_norm");
  return op.call(x, weight_D, eps);
}

std::tuple<Tensor, Tensor> rope_qk(const Tensor& q_PHE, const Tensor& k_PGE, const Tensor& cos,
                                   const Tensor& sin, int64_t direction) {
  return call_rope(q_PHE, k_PGE, cos, sin, direction);
}

}  // namespace ctxc
