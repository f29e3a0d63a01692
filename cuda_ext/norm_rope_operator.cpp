#include "cuda_ext/operator_support.h"

namespace ctxc::cuda {
namespace {

/// The weight in a type the kernels take beside x: that of x, or the wide one.
Tensor weight_for(const Tensor& x, const Tensor& weight_D) {
  TORCH_CHECK(weight_D.dim() == 1 && weight_D.size(0) == x.size(-1),
              "ctxc: rms_norm: the weight does not fit (found ", weight_D.sizes(), " for ", x.sizes(), ")");
  const bool same = weight_D.scalar_type() == x.scalar_type();
  return (same ? weight_D : weight_D.to(wide(x))).contiguous();
}

int64_t rows_of(const Tensor& x) {
  const int64_t rows = x.size(-1) == 0 ? 0 : x.numel() / x.size(-1);
  check_rows(rows);
  return rows;
}

}  // namespace

std::tuple<Tensor, Tensor> rms_norm_forward(const Tensor& x_, const Tensor& weight_D, double eps) {
  const c10::DeviceGuard guard(x_.device());
  const Tensor x = x_.contiguous(), weight = weight_for(x, weight_D);
  Tensor y = at::empty_like(x), inverse = at::empty({rows_of(x)}, x.options().dtype(wide(x)));
  check_started(rms_norm_forward(type_of(x), type_of(weight), x.const_data_ptr(), weight.const_data_ptr(),
                                 eps, y.mutable_data_ptr(), inverse.mutable_data_ptr(), rows_of(x),
                                 int_of(x.size(-1), "model width"), stream_of(x)),
                "rms_norm_forward");
  return {y, inverse};
}

Tensor rms_norm_backward(const Tensor& grad_y_, const Tensor& x_, const Tensor& weight_D,
                         const Tensor& inverse) {
  const c10::DeviceGuard guard(x_.device());
  const Tensor x = x_.contiguous(), weight = weight_for(x, weight_D),
               grad_y = grad_y_.to(x.scalar_type()).contiguous();
  Tensor grad_x = at::empty_like(x);
  check_started(
      rms_norm_backward(type_of(x), type_of(weight), grad_y.const_data_ptr(), x.const_data_ptr(),
                        weight.const_data_ptr(), inverse.const_data_ptr(), grad_x.mutable_data_ptr(),
                        rows_of(x), int_of(x.size(-1), "model width"), stream_of(x)),
      "rms_norm_backward");
  return grad_x;
}

std::tuple<Tensor, Tensor> rope_qk(const Tensor& q_PHE, const Tensor& k_PGE, const Tensor& cos_,
                                   const Tensor& sin_, int64_t direction) {
  const c10::DeviceGuard guard(q_PHE.device());
  TORCH_CHECK(q_PHE.dim() == 3 && k_PGE.dim() == 3 && k_PGE.size(0) == q_PHE.size(0) &&
                  k_PGE.size(2) == q_PHE.size(2) && q_PHE.size(2) % 2 == 0 &&
                  q_PHE.scalar_type() == k_PGE.scalar_type(),
              "ctxc: rope_qk: queries and keys do not fit (found ", q_PHE.sizes(), " and ", k_PGE.sizes(),
              ")");
  const int64_t tokens = q_PHE.size(0), half = q_PHE.size(2) / 2;
  TORCH_CHECK(cos_.numel() == tokens * half && sin_.numel() == tokens * half,
              "ctxc: rope_qk: the tables do not fit (found ", cos_.sizes(), ", expected [", tokens, ", 1, ",
              half, "])");
  check_rows(tokens);
  const Tensor q = q_PHE.contiguous(), k = k_PGE.contiguous(), cos = cos_.to(q.scalar_type()).contiguous(),
               sin = sin_.to(q.scalar_type()).contiguous();
  Tensor q_out = at::empty_like(q), k_out = at::empty_like(k);
  check_started(rope_qk(type_of(q), q.const_data_ptr(), k.const_data_ptr(), cos.const_data_ptr(),
                        sin.const_data_ptr(), q_out.mutable_data_ptr(), k_out.mutable_data_ptr(), tokens,
                        int_of(q.size(1), "heads"), int_of(k.size(1), "heads"),
                        int_of(q.size(2), "head width"), direction < 0 ? -1 : 1, stream_of(q)),
                "rope_qk");
  return {q_out, k_out};
}

}  // namespace ctxc::cuda
