#include "model/kernels/vocabulary_loss.h"

#include <torch/library.h>

#include "model/kernels/operator.h"

namespace ctxc {
namespace {

at::ScalarType wide(const Tensor& logits) {
  return logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

std::tuple<Tensor, Tensor> cross_entropy_cpu(const Tensor& logits_CV, const Tensor& target_C, bool gradient) {
  const Tensor target_C1 = target_C.unsqueeze(1);
  Tensor block_CV = logits_CV.to(wide(logits_CV));
  const Tensor top_C1 = block_CV.amax(1, /*keepdim=*/true);
  const Tensor wanted_C1 = block_CV.gather(1, target_C1);
  block_CV.sub_(top_C1).exp_();
  const Tensor z_C1 = block_CV.sum(1, /*keepdim=*/true);
  const Tensor loss_C1 = top_C1 + z_C1.log() - wanted_C1;
  if (gradient) {
    block_CV.scatter_add_(1, target_C1, -z_C1);
    if (!block_CV.is_same(logits_CV)) logits_CV.copy_(block_CV);
  }
  return {loss_C1.squeeze(1), z_C1.squeeze(1)};
}

Tensor kl_cpu(const Tensor& student_CV, const Tensor& teacher_CV, double tau, bool reverse, bool gradient) {
  const auto log_p_of = [&](const Tensor& logits_CV) {
    const Tensor wide_CV = logits_CV.to(wide(logits_CV));
    return (tau == 1 ? wide_CV : wide_CV / tau).log_softmax(1);
  };
  const Tensor log_student_CV = log_p_of(student_CV), log_teacher_CV = log_p_of(teacher_CV);
  if (reverse) {
    const Tensor student_p_CV = log_student_CV.exp(), ratio_CV = log_student_CV - log_teacher_CV;
    const Tensor kl_C1 = (student_p_CV * ratio_CV).sum(1, /*keepdim=*/true);
    if (gradient) student_CV.copy_(student_p_CV * (ratio_CV - kl_C1) * tau);
    return kl_C1.squeeze(1) * (tau * tau);
  }
  const Tensor teacher_p_CV = log_teacher_CV.exp();
  if (gradient) student_CV.copy_((log_student_CV.exp() - teacher_p_CV) * tau);
  return (teacher_p_CV * (log_teacher_CV - log_student_CV)).sum(1) * (tau * tau);
}

std::tuple<Tensor, Tensor> cross_entropy_meta(const Tensor& logits_CV, const Tensor&, bool) {
  const Tensor loss_C = at::empty({logits_CV.size(0)}, logits_CV.options().dtype(wide(logits_CV)));
  return {loss_C, at::empty_like(loss_C)};
}

Tensor kl_meta(const Tensor& student_CV, const Tensor&, double, bool, bool) {
  return at::empty({student_CV.size(0)}, student_CV.options().dtype(wide(student_CV)));
}

TORCH_LIBRARY_FRAGMENT(ctxc, m) {
  m.def("cross_entropy_rows_(Tensor(a!) logits, Tensor target, bool gradient) -> (Tensor, Tensor)");
  m.def("kl_rows_(Tensor(a!) student, Tensor teacher, float tau, bool reverse, bool gradient) -> Tensor");
}
TORCH_LIBRARY_IMPL(ctxc, CPU, m) {
  m.impl("cross_entropy_rows_", cross_entropy_cpu);
  m.impl("kl_rows_", kl_cpu);
}
TORCH_LIBRARY_IMPL(ctxc, Meta, m) {
  m.impl("cross_entropy_rows_", cross_entropy_meta);
  m.impl("kl_rows_", kl_meta);
}

}  // namespace

std::tuple<Tensor, Tensor> cross_entropy_rows_(const Tensor& logits_CV, const Tensor& target_C,
                                               bool gradient) {
  static const auto op = find_operator<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, bool)>(
      "ctxc::cross_entropy_rows_");
  return op.call(logits_CV, target_C, gradient);
}

Tensor kl_rows_(const Tensor& student_CV, const Tensor& teacher_CV, double tau, bool reverse, bool gradient) {
  static const auto op =
      find_operator<Tensor(const Tensor&, const Tensor&, double, bool, bool)>("ctxc::kl_rows_");
  return op.call(student_CV, teacher_CV, tau, reverse, gradient);
}

}  // namespace ctxc
