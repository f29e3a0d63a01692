#include "model/kernels/diffusion_step.h"

#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "model/kernels/operator.h"

namespace ctxc {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;
using Maybe = std::optional<Tensor>;

constexpr double kLeastNoise = 1e-4;

Maybe maybe(const Tensor& tensor) {
  return tensor.defined() ? Maybe(tensor) : std::nullopt;
}
Tensor or_undefined(const Maybe& tensor) {
  return tensor ? *tensor : Tensor();
}

/// The type latents of both types meet in.
at::ScalarType common(const Tensor& a, const Tensor& b) {
  return b.defined() ? at::promote_types(a.scalar_type(), b.scalar_type()) : a.scalar_type();
}

Tensor shaped(const Tensor& log_snr, const Tensor& latent) {
  return log_snr.dim() == latent.dim() ? log_snr : log_snr.unsqueeze(-1);
}

/// d/dlam from the derivatives of every element with respect to the amplitudes, in the shape of the log-SNRs.
Tensor by_log_snr(const Amplitudes& at, const Tensor& by_signal, const Tensor& by_noise,
                  const Tensor& log_snr) {
  const Tensor each = at.signal * at.noise / 2 * (at.noise * by_signal - at.signal * by_noise);
  return log_snr.dim() == each.dim() ? each : each.sum(-1);
}

std::tuple<Tensor, Tensor> diffuse_backward_cpu(const Tensor& grad_z, const Tensor& clean,
                                                const Tensor& log_snr, const Maybe& eps) {
  const Amplitudes at(log_snr, clean);
  const Tensor by_noise = eps ? grad_z * *eps : at::zeros_like(grad_z);
  return {(at.signal * grad_z).to(clean.scalar_type()), by_log_snr(at, grad_z * clean, by_noise, log_snr)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> ddim_update_backward_cpu(
    const Maybe& grad_clean, const Maybe& grad_next, const Tensor& z, const Tensor& predicted,
    const Tensor& log_snr, const Maybe& next_log_snr, bool velocity) {
  const Prediction kind = velocity ? Prediction::kVelocity : Prediction::kClean;
  const Amplitudes here(log_snr, z);
  Tensor by_clean = grad_clean ? *grad_clean : at::zeros_like(z), by_eps = at::zeros_like(z), grad_next_level;
  const Tensor eps = eps_of(here, z, predicted, kind);
  if (grad_next) {
    const Amplitudes there(*next_log_snr, z);
    grad_next_level =
        by_log_snr(there, clean_of(here, z, predicted, kind) * *grad_next, eps * *grad_next, *next_log_snr);
    by_clean = by_clean + there.signal * *grad_next;
    by_eps = there.noise * *grad_next;
  } else if (next_log_snr) {
    grad_next_level = at::zeros_like(*next_log_snr);
  }
  Tensor grad_z, grad_predicted, grad_level;
  if (velocity) {
    grad_z = here.signal * by_clean + here.noise * by_eps;
    grad_predicted = here.signal * by_eps - here.noise * by_clean;
    grad_level =
        by_log_snr(here, z * by_clean + predicted * by_eps, z * by_eps - predicted * by_clean, log_snr);
  } else {
    grad_z = by_eps / here.noise.clamp_min(kLeastNoise);
    grad_predicted = by_clean - here.signal * grad_z;
    grad_level = by_log_snr(here, -predicted * grad_z, -eps * grad_z * here.noise.ge(kLeastNoise), log_snr);
  }
  return {grad_z.to(z.scalar_type()), grad_predicted.to(z.scalar_type()), grad_level, grad_next_level};
}

/// An operator's result is no alias of its input.
std::tuple<Tensor, Tensor> ddim_update_cpu(const Tensor& z, const Tensor& predicted, const Tensor& log_snr,
                                           const Maybe& next_log_snr, bool velocity) {
  const auto [clean, next] = ddim_update_reference(z, predicted, log_snr, next_log_snr, velocity);
  return {clean.is_same(predicted) ? clean.clone() : clean, next};
}

Tensor diffuse_meta(const Tensor& clean, const Tensor&, const Maybe&) {
  return at::empty_like(clean);
}
std::tuple<Tensor, Tensor> diffuse_backward_meta(const Tensor&, const Tensor& clean, const Tensor& log_snr,
                                                 const Maybe&) {
  return {at::empty_like(clean), at::empty_like(log_snr)};
}
std::tuple<Tensor, Tensor> ddim_update_meta(const Tensor& z, const Tensor&, const Tensor&,
                                            const Maybe& next_log_snr, bool) {
  return {at::empty_like(z), next_log_snr ? at::empty_like(z) : Tensor()};
}
std::tuple<Tensor, Tensor, Tensor, Tensor> ddim_update_backward_meta(const Maybe&, const Maybe&,
                                                                     const Tensor& z, const Tensor&,
                                                                     const Tensor& log_snr,
                                                                     const Maybe& next_log_snr, bool) {
  return {at::empty_like(z), at::empty_like(z), at::empty_like(log_snr),
          next_log_snr ? at::empty_like(*next_log_snr) : Tensor()};
}

Tensor call_diffuse(const Tensor& clean, const Tensor& log_snr, const Maybe& eps) {
  static const auto op = find_operator<Tensor(const Tensor&, const Tensor&, const Maybe&)>("ctxc::diffuse");
  return op.call(clean, log_snr, eps);
}
std::tuple<Tensor, Tensor> call_diffuse_backward(const Tensor& grad_z, const Tensor& clean,
                                                 const Tensor& log_snr, const Maybe& eps) {
  static const auto op =
      find_operator<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Maybe&)>(
          "ctxc::diffuse_backward");
  return op.call(grad_z, clean, log_snr, eps);
}
std::tuple<Tensor, Tensor> call_ddim_update(const Tensor& z, const Tensor& predicted, const Tensor& log_snr,
                                            const Maybe& next_log_snr, bool velocity) {
  static const auto op = find_operator<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&,
                                                                  const Maybe&, bool)>("ctxc::ddim_update");
  return op.call(z, predicted, log_snr, next_log_snr, velocity);
}
std::tuple<Tensor, Tensor, Tensor, Tensor> call_ddim_update_backward(
    const Maybe& grad_clean, const Maybe& grad_next, const Tensor& z, const Tensor& predicted,
    const Tensor& log_snr, const Maybe& next_log_snr, bool velocity) {
  static const auto op = find_operator<std::tuple<Tensor, Tensor, Tensor, Tensor>(
      const Maybe&, const Maybe&, const Tensor&, const Tensor&, const Tensor&, const Maybe&, bool)>(
      "ctxc::ddim_update_backward");
  return op.call(grad_clean, grad_next, z, predicted, log_snr, next_log_snr, velocity);
}

struct Diffuse : Function<Diffuse> {
  static Tensor forward(AutogradContext* ctx, const Tensor& clean, const Tensor& log_snr, const Maybe& eps) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({clean, log_snr, or_undefined(eps)});
    return call_diffuse(clean, log_snr, eps);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &clean = saved[0], &log_snr = saved[1], &eps = saved[2];
    const auto [grad_clean, grad_level] = call_diffuse_backward(grads[0], clean, log_snr, maybe(eps));
    Tensor grad_eps;
    if (eps.defined() && ctx->needs_input_grad(2))
      grad_eps = (Amplitudes(log_snr, clean).noise * grads[0]).to(eps.scalar_type());
    return {grad_clean, grad_level.to(log_snr.scalar_type()), grad_eps};
  }
};

struct DdimUpdate : Function<DdimUpdate> {
  static variable_list forward(AutogradContext* ctx, const Tensor& z, const Tensor& predicted,
                               const Tensor& log_snr, const Maybe& next_log_snr, bool velocity) {
    const at::AutoDispatchBelowADInplaceOrView guard;
    ctx->save_for_backward({z, predicted, log_snr, or_undefined(next_log_snr)});
    ctx->set_materialize_grads(false);
    ctx->saved_data["velocity"] = velocity;
    auto [clean, next] = call_ddim_update(z, predicted, log_snr, next_log_snr, velocity);
    return next.defined() ? variable_list{clean, next} : variable_list{clean};
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &log_snr = saved[2], &next_log_snr = saved[3];
    const Maybe grad_next = grads.size() > 1 ? maybe(grads[1]) : std::nullopt;
    if (!grads[0].defined() && !grad_next) return variable_list(5);
    auto [grad_z, grad_predicted, grad_level, grad_next_level] =
        call_ddim_update_backward(maybe(grads[0]), grad_next, saved[0], saved[1], log_snr,
                                  maybe(next_log_snr), ctx->saved_data["velocity"].toBool());
    if (grad_next_level.defined()) grad_next_level = grad_next_level.to(next_log_snr.scalar_type());
    return {grad_z, grad_predicted, grad_level.to(log_snr.scalar_type()), grad_next_level, Tensor()};
  }
};

Tensor diffuse_autograd(const Tensor& clean, const Tensor& log_snr, const Maybe& eps) {
  return clean.is_cpu() ? diffuse_reference(clean, log_snr, eps) : diffuse_by_kernel(clean, log_snr, eps);
}
std::tuple<Tensor, Tensor> ddim_update_autograd(const Tensor& z, const Tensor& predicted,
                                                const Tensor& log_snr, const Maybe& next_log_snr,
                                                bool velocity) {
  return z.is_cpu() ? ddim_update_reference(z, predicted, log_snr, next_log_snr, velocity)
                    : ddim_update_by_kernel(z, predicted, log_snr, next_log_snr, velocity);
}

TORCH_LIBRARY_FRAGMENT(ctxc, m) {
  m.def("diffuse(Tensor clean, Tensor log_snr, Tensor? eps) -> Tensor");
  m.def("diffuse_backward(Tensor grad_z, Tensor clean, Tensor log_snr, Tensor? eps) -> (Tensor, Tensor)");
  m.def(
      "ddim_update(Tensor z, Tensor predicted, Tensor log_snr, Tensor? next_log_snr, bool velocity) -> "
      "(Tensor, Tensor)");
  m.def(
      "ddim_update_backward(Tensor? grad_clean, Tensor? grad_next, Tensor z, Tensor predicted, Tensor "
      "log_snr, Tensor? next_log_snr, bool velocity) -> (Tensor, Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(ctxc, CPU, m) {
  m.impl("diffuse", diffuse_reference);
  m.impl("diffuse_backward", diffuse_backward_cpu);
  m.impl("ddim_update", ddim_update_cpu);
  m.impl("ddim_update_backward", ddim_update_backward_cpu);
}
TORCH_LIBRARY_IMPL(ctxc, Meta, m) {
  m.impl("diffuse", diffuse_meta);
  m.impl("diffuse_backward", diffuse_backward_meta);
  m.impl("ddim_update", ddim_update_meta);
  m.impl("ddim_update_backward", ddim_update_backward_meta);
}
TORCH_LIBRARY_IMPL(ctxc, Autograd, m) {
  m.impl("diffuse", diffuse_autograd);
  m.impl("ddim_update", ddim_update_autograd);
}

}  // namespace

Amplitudes::Amplitudes(const Tensor& log_snr, const Tensor& latent_BKZ) {
  const Tensor lam = shaped(log_snr, latent_BKZ);
  signal = lam.sigmoid().sqrt();
  noise = (-lam).sigmoid().sqrt();
}

Tensor clean_of(const Amplitudes& at, const Tensor& z, const Tensor& predicted, Prediction kind) {
  return kind == Prediction::kClean ? predicted : at.signal * z - at.noise * predicted;
}

Tensor eps_of(const Amplitudes& at, const Tensor& z, const Tensor& predicted, Prediction kind) {
  if (kind == Prediction::kVelocity) return at.noise * z + at.signal * predicted;
  return (z - at.signal * predicted) / at.noise.clamp_min(kLeastNoise);
}

Tensor diffuse_reference(const Tensor& clean, const Tensor& log_snr, const Maybe& eps) {
  const Tensor lam = shaped(log_snr, clean);
  Tensor z = lam.sigmoid().sqrt() * clean;
  if (eps) z = z + (-lam).sigmoid().sqrt() * *eps;
  return z.to(common(clean, or_undefined(eps)));
}

std::tuple<Tensor, Tensor> ddim_update_reference(const Tensor& z, const Tensor& predicted,
                                                 const Tensor& log_snr, const Maybe& next_log_snr,
                                                 bool velocity) {
  const Prediction kind = velocity ? Prediction::kVelocity : Prediction::kClean;
  const at::ScalarType type = common(z, predicted);
  const Amplitudes here(log_snr, z);
  const Tensor clean = clean_of(here, z, predicted, kind);
  if (!next_log_snr) return {clean.to(type), Tensor()};
  const Tensor eps = eps_of(here, z, predicted, kind);
  const Amplitudes there(*next_log_snr, z);
  return {clean.to(type), (there.signal * clean + there.noise * eps).to(type)};
}

Tensor diffuse_by_kernel(const Tensor& clean, const Tensor& log_snr, const Maybe& eps) {
  const at::ScalarType type = common(clean, or_undefined(eps));
  return Diffuse::apply(clean.to(type), log_snr, eps ? Maybe(eps->to(type)) : eps);
}

std::tuple<Tensor, Tensor> ddim_update_by_kernel(const Tensor& z, const Tensor& predicted,
                                                 const Tensor& log_snr, const Maybe& next_log_snr,
                                                 bool velocity) {
  const at::ScalarType type = common(z, predicted);
  const variable_list result =
      DdimUpdate::apply(z.to(type), predicted.to(type), log_snr, next_log_snr, velocity);
  return {result[0], result.size() > 1 ? result[1] : Tensor()};
}

Tensor diffuse(const Tensor& clean, const Tensor& log_snr, const Tensor& eps) {
  return call_diffuse(clean, log_snr, maybe(eps));
}

std::tuple<Tensor, Tensor> ddim_update(const Tensor& z, const Tensor& predicted, const Tensor& log_snr,
                                       const Maybe& next_log_snr, Prediction kind) {
  return call_ddim_update(z, predicted, log_snr, next_log_snr, kind == Prediction::kVelocity);
}

}  // namespace ctxc
