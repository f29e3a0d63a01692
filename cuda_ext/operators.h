// The operators of src/model/kernels over the kernels' launchers: checks, outputs, the tensor's device and
// current stream. Nothing here names CUDA: over the host shim the same code takes CPU tensors, which is how
// it is tested. register.cpp registers them for CUDA. Tensors may be strided (they are made contiguous),
// states must agree in type and shape.
#pragma once
#include <ATen/core/Tensor.h>

#include <optional>
#include <tuple>

namespace ctxc::cuda {

using at::Tensor;
using at::TensorList;

std::tuple<Tensor, Tensor, Tensor> sinkhorn_forward(const Tensor& cost_NWK, const Tensor& a_NW,
                                                    const Tensor& b_NK, int64_t iterations, double epsilon);
std::tuple<Tensor, Tensor> sinkhorn_backward(const Tensor& grad_plan_NWK, const Tensor& cost_NWK,
                                             const Tensor& a_NW, const Tensor& b_NK, const Tensor& u_NTW,
                                             const Tensor& v_NTK, double epsilon);

Tensor weighted_states(const Tensor& weights_PS, TensorList hidden_PD);
Tensor state_products(const Tensor& g_PD, TensorList hidden_PD);
std::tuple<Tensor, Tensor> depth_gate_mix(const Tensor& pull_PD, const Tensor& offset_PS,
                                          TensorList hidden_PD, double scale);
std::tuple<Tensor, Tensor> depth_gate_mix_backward(const Tensor& grad_mixed_PD,
                                                   const std::optional<Tensor>& grad_weights_PS,
                                                   const Tensor& weights_PS, TensorList hidden_PD,
                                                   double scale);

std::tuple<Tensor, Tensor> cross_entropy_rows_(const Tensor& logits_CV, const Tensor& target_C,
                                               bool gradient);
Tensor kl_rows_(const Tensor& student_CV, const Tensor& teacher_CV, double tau, bool reverse, bool gradient);

std::tuple<Tensor, Tensor> rms_norm_forward(const Tensor& x, const Tensor& weight_D, double eps);
Tensor rms_norm_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight_D,
                         const Tensor& inverse);
std::tuple<Tensor, Tensor> rope_qk(const Tensor& q_PHE, const Tensor& k_PGE, const Tensor& cos,
                                   const Tensor& sin, int64_t direction);

Tensor diffuse(const Tensor& clean, const Tensor& log_snr, const std::optional<Tensor>& eps);
std::tuple<Tensor, Tensor> diffuse_backward(const Tensor& grad_z, const Tensor& clean, const Tensor& log_snr,
                                            const std::optional<Tensor>& eps);
std::tuple<Tensor, Tensor> ddim_update(const Tensor& z, const Tensor& predicted, const Tensor& log_snr,
                                       const std::optional<Tensor>& next_log_snr, bool velocity);
std::tuple<Tensor, Tensor, Tensor, Tensor> ddim_update_backward(
    const std::optional<Tensor>& grad_clean, const std::optional<Tensor>& grad_next, const Tensor& z,
    const Tensor& predicted, const Tensor& log_snr, const std::optional<Tensor>& next_log_snr, bool velocity);

}  // namespace ctxc::cuda
