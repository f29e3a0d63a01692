#include "cuda_ext/operator_support.h"

namespace ctxc::cuda {
namespace {

/// Sizes and levels [R], [R, D] of latents [..., D] whose log-SNRs are [...] or [..., D].
LatentSize size_of(const Tensor& latent, const Tensor& log_snr, const char* kernel) {
  const bool each = log_snr.dim() == latent.dim();
  TORCH_CHECK(latent.dim() > 0 &&
                  log_snr.sizes() == (each ? latent.sizes() : latent.sizes().slice(0, latent.dim() - 1)),
              "ctxc: ", kernel, ": the log-SNRs do not fit (found ", log_snr.sizes(), " for latents ",
              latent.sizes(), ")");
  const int64_t width = latent.size(-1), rows = width == 0 ? 0 : latent.numel() / width;
  check_rows(rows);
  return {rows, int_of(width, "latent width"), each};
}

Tensor levels(const Tensor& log_snr, const Tensor& latent) {
  return log_snr.to(wide(latent)).contiguous();
}

/// Contiguous, in the type of `latent`; undefined where there is none.
Tensor beside(const std::optional<Tensor>& other, const Tensor& latent, const char* kernel) {
  if (!other || !other->defined()) return {};
  TORCH_CHECK(other->sizes() == latent.sizes(), "ctxc: ", kernel, ": latents do not fit (found ",
              other->sizes(), " and ", latent.sizes(), ")");
  return other->to(latent.scalar_type()).contiguous();
}

const void* address(const Tensor& tensor) {
  return tensor.defined() ? tensor.const_data_ptr() : nullptr;
}
void* target(const Tensor& tensor) {
  return tensor.defined() ? tensor.mutable_data_ptr() : nullptr;
}

}  // namespace

Tensor diffuse(const Tensor& clean_, const Tensor& log_snr, const std::optional<Tensor>& eps_) {
  const c10::DeviceGuard guard(clean_.device());
  const Tensor clean = clean_.contiguous(), level = levels(log_snr, clean),
               eps = beside(eps_, clean, "diffuse");
  const LatentSize size = size_of(clean, level, "diffuse");
  Tensor z = at::empty_like(clean);
  check_started(diffuse(type_of(clean), clean.const_data_ptr(), level.const_data_ptr(), address(eps),
                        z.mutable_data_ptr(), size, stream_of(clean)),
                "diffuse");
  return z;
}

std::tuple<Tensor, Tensor> diffuse_backward(const Tensor& grad_z_, const Tensor& clean_,
                                            const Tensor& log_snr, const std::optional<Tensor>& eps_) {
  const c10::DeviceGuard guard(clean_.device());
  const Tensor clean = clean_.contiguous(), level = levels(log_snr, clean),
               eps = beside(eps_, clean, "diffuse"), grad_z = beside(grad_z_, clean, "diffuse");
  const LatentSize size = size_of(clean, level, "diffuse");
  Tensor grad_clean = at::empty_like(clean), grad_level = at::zeros_like(level);
  check_started(diffuse_backward(type_of(clean), grad_z.const_data_ptr(), clean.const_data_ptr(),
                                 level.const_data_ptr(), address(eps), grad_clean.mutable_data_ptr(),
                                 grad_level.mutable_data_ptr(), size, stream_of(clean)),
                "diffuse_backward");
  return {grad_clean, grad_level};
}

std::tuple<Tensor, Tensor> ddim_update(const Tensor& z_, const Tensor& predicted_, const Tensor& log_snr,
                                       const std::optional<Tensor>& next_log_snr, bool velocity) {
  const c10::DeviceGuard guard(z_.device());
  const Tensor z = z_.contiguous(), predicted = beside(predicted_, z, "ddim_update"),
               level = levels(log_snr, z), next_level = next_log_snr ? levels(*next_log_snr, z) : Tensor();
  const LatentSize size = size_of(z, level, "ddim_update");
  TORCH_CHECK(!next_log_snr || next_level.sizes() == level.sizes(),
              "ctxc: ddim_update: the levels do not fit (found ", level.sizes(), ", then ",
              next_level.sizes(), ")");
  Tensor clean = at::empty_like(z), next = next_log_snr ? at::empty_like(z) : Tensor();
  check_started(
      ddim_update(type_of(z), z.const_data_ptr(), predicted.const_data_ptr(), level.const_data_ptr(),
                  address(next_level), velocity, clean.mutable_data_ptr(), target(next), size, stream_of(z)),
      "ddim_update");
  return {clean, next};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> ddim_update_backward(const std::optional<Tensor>& grad_clean_,
                                                                const std::optional<Tensor>& grad_next_,
                                                                const Tensor& z_, const Tensor& predicted_,
                                                                const Tensor& log_snr,
                                                                const std::optional<Tensor>& next_log_snr,
                                                                bool velocity) {
  const c10::DeviceGuard guard(z_.device());
  const Tensor z = z_.contiguous(), predicted = beside(predicted_, z, "ddim_update"),
               level = levels(log_snr, z), grad_clean = beside(grad_clean_, z, "ddim_update"),
               grad_next = beside(grad_next_, z, "ddim_update");
  TORCH_CHECK(!grad_next.defined() || next_log_snr, "ctxc: ddim_update: a gradient of z without its level");
  const Tensor next_level = grad_next.defined() ? levels(*next_log_snr, z) : Tensor();
  const LatentSize size = size_of(z, level, "ddim_update");
  Tensor grad_z = at::empty_like(z), grad_predicted = at::empty_like(z), grad_level = at::zeros_like(level),
         grad_next_level = next_log_snr ? at::zeros_like(level) : Tensor();
  check_started(ddim_update_backward(
                    type_of(z),
                    {.grad_clean = address(grad_clean),
                     .grad_next = address(grad_next),
                     .z = z.const_data_ptr(),
                     .predicted = predicted.const_data_ptr(),
                     .log_snr = level.const_data_ptr(),
                     .next_log_snr = address(next_level),
                     .grad_z = grad_z.mutable_data_ptr(),
                     .grad_predicted = grad_predicted.mutable_data_ptr(),
                     .grad_log_snr = grad_level.mutable_data_ptr(),
                     .grad_next_log_snr = grad_next.defined() ? grad_next_level.mutable_data_ptr() : nullptr},
                    velocity, size, stream_of(z)),
                "ddim_update_backward");
  return {grad_z, grad_predicted, grad_level, grad_next_level};
}

}  // namespace ctxc::cuda
