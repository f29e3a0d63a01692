#include "cuda_ext/operator_support.h"

namespace ctxc::cuda {
namespace {

void check_logits(const Tensor& logits_CV) {
  TORCH_CHECK(logits_CV.dim() == 2 && logits_CV.size(1) > 0 && logits_CV.is_contiguous(),
              "ctxc: logits must be a contiguous [C, V] block with V > 0 (found ", logits_CV.sizes(), ")");
  check_rows(logits_CV.size(0));
}

}  // namespace

std::tuple<Tensor, Tensor> cross_entropy_rows_(const Tensor& logits_CV, const Tensor& target_C,
                                               bool gradient) {
  const c10::DeviceGuard guard(logits_CV.device());
  check_logits(logits_CV);
  TORCH_CHECK(
      target_C.dim() == 1 && target_C.size(0) == logits_CV.size(0) && target_C.scalar_type() == at::kLong,
      "ctxc: targets must be int64, one a row (found ", target_C.sizes(), " for ", logits_CV.sizes(), ")");
  const Tensor target = target_C.contiguous();
  Tensor loss = at::empty({logits_CV.size(0)}, logits_CV.options().dtype(wide(logits_CV)));
  Tensor z = at::empty_like(loss);
  check_started(
      cross_entropy_rows(type_of(logits_CV), logits_CV.mutable_data_ptr(), target.const_data_ptr<int64_t>(),
                         loss.mutable_data_ptr(), z.mutable_data_ptr(), logits_CV.size(0), logits_CV.size(1),
                         gradient, stream_of(logits_CV)),
      "cross_entropy_rows");
  return {loss, z};
}

Tensor kl_rows_(const Tensor& student_CV, const Tensor& teacher_CV, double tau, bool reverse, bool gradient) {
  const c10::DeviceGuard guard(student_CV.device());
  check_logits(student_CV);
  TORCH_CHECK(
      teacher_CV.sizes() == student_CV.sizes() && teacher_CV.scalar_type() == student_CV.scalar_type(),
      "ctxc: logits of student and teacher differ in shape or type");
  const Tensor teacher = teacher_CV.contiguous();
  Tensor loss = at::empty({student_CV.size(0)}, student_CV.options().dtype(wide(student_CV)));
  check_started(kl_rows(type_of(student_CV), student_CV.mutable_data_ptr(), teacher.const_data_ptr(), tau,
                        reverse, loss.mutable_data_ptr(), student_CV.size(0), student_CV.size(1), gradient,
                        stream_of(student_CV)),
                "kl_rows");
  return loss;
}

}  // namespace ctxc::cuda
