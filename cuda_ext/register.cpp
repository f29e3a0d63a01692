// What loading the plugin does: the operators of src/model/kernels get their CUDA implementation.
#include <torch/library.h>

#include "cuda_ext/operators.h"

TORCH_LIBRARY_IMPL(ctxc, CUDA, m) {
  m.impl("sinkhorn_forward", ctxc::cuda::sinkhorn_forward);
  m.impl("sinkhorn_backward", ctxc::cuda::sinkhorn_backward);
  m.impl("weighted_states", ctxc::cuda::weighted_states);
  m.impl("state_products", ctxc::cuda::state_products);
  m.impl("depth_gate_mix", ctxc::cuda::depth_gate_mix);
  m.impl("depth_gate_mix_backward", ctxc::cuda::depth_gate_mix_backward);
  m.impl("cross_entropy_rows_", ctxc::cuda::cross_entropy_rows_);
  m.impl("kl_rows_", ctxc::cuda::kl_rows_);
  m.impl("rms_norm_forward", ctxc::cuda::rms_norm_forward);
  m.impl("rms_norm_backward", ctxc::cuda::rms_norm_backward);
  m.impl("rope_qk", ctxc::cuda::rope_qk);
  m.impl("diffuse", ctxc::cuda::diffuse);
  m.impl("diffuse_backward", ctxc::cuda::diffuse_backward);
  m.impl("ddim_update", ctxc::cuda::ddim_update);
  m.impl("ddim_update_backward", ctxc::cuda::ddim_update_backward);
}
