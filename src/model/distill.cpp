#include "model/distill.h"

#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"

namespace ctxc {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// Value [C] and gradient [C, V] of the divergence of one chunk.
struct Divergences {
  Tensor value_C, grad_CV;
};

Divergences divergence_of(const Tensor& student_CV, const Tensor& teacher_CV, Divergence kind, double tau) {
  if (kind == Divergence::kLogitMse) {
    const Tensor gap_CV = student_CV - teacher_CV;
    return {gap_CV.square().mean(1), gap_CV * (2.0 / static_cast<double>(gap_CV.size(1)))};
  }
  const Tensor log_q = at::log_softmax(student_CV / tau, 1), log_p = at::log_softmax(teacher_CV / tau, 1);
  const Tensor q = log_q.exp();
  if (kind == Divergence::kForwardKl) {
    const Tensor p = log_p.exp();
    return {(p * (log_p - log_q)).sum(1) * (tau * tau), (q - p) * tau};
  }
  const Tensor ratio = log_q - log_p;
  const Tensor kl_C1 = (q * ratio).sum(1, /*keepdim=*/true);
  return {kl_C1.squeeze(1) * (tau * tau), q * (ratio - kl_C1) * tau};
}

struct Outcome {
  Tensor loss, align_M, nll_M, grad_MD;
};

Outcome run(const DistillRows& rows, const Tensor& weight_VD, Divergence kind, double tau, int64_t chunk,
            bool want_grad) {
  const at::NoGradGuard no_grad;
  const int64_t count = rows.student_MD.size(0);
  const auto numbers = rows.student_MD.options().dtype(at::kFloat);
  Outcome outcome{at::zeros({}, numbers.dtype(at::kDouble)), at::zeros({count}, numbers),
                  at::zeros({count}, numbers), want_grad ? at::empty_like(rows.student_MD) : Tensor()};
  const auto logits = [&](const Tensor& hidden_CD) {
    return at::linear(hidden_CD.to(weight_VD.scalar_type()), weight_VD).to(at::kFloat);
  };
  for (int64_t begin = 0; begin < count; begin += chunk) {
    const int64_t size = std::min(chunk, count - begin);
    const auto part = [&](const Tensor& tensor) { return tensor.narrow(0, begin, size); };
    const Tensor student_CV = logits(part(rows.student_MD));
    const Tensor align_C = part(rows.align_M), ce_C = part(rows.ce_M);
    const Tensor target_C1 = part(rows.target_M).unsqueeze(1);
    const Tensor log_q = at::log_softmax(student_CV, 1);
    const Tensor nll_C = -log_q.gather(1, target_C1).squeeze(1);
    part(outcome.nll_M).copy_(nll_C);
    outcome.loss += (nll_C * ce_C).sum(at::kDouble);
    Tensor grad_CV;
    if (want_grad) {
      grad_CV = log_q.exp();
      grad_CV.scatter_add_(1, target_C1, at::full_like(target_C1, -1, numbers));
      grad_CV.mul_(ce_C.unsqueeze(1));
    }
    if (align_C.any().item<bool>()) {
      const Divergences found = divergence_of(student_CV, logits(part(rows.teacher_MD)), kind, tau);
      part(outcome.align_M).copy_(found.value_C.masked_fill(align_C == 0, 0));
      outcome.loss += (found.value_C * align_C).sum(at::kDouble);
      if (want_grad) grad_CV.addcmul_(found.grad_CV, align_C.unsqueeze(1));
    }
    if (want_grad) part(outcome.grad_MD).copy_(at::mm(grad_CV.to(weight_VD.scalar_type()), weight_VD));
  }
  outcome.loss = outcome.loss.to(at::kFloat);
  return outcome;
}

struct Distill : Function<Distill> {
  static variable_list forward(AutogradContext* context, const Tensor& student_MD, const DistillRows& rows,
                               const Tensor& weight_VD, Divergence kind, double tau, int64_t chunk) {
    DistillRows detached = rows;
    detached.student_MD = student_MD;
    Outcome outcome = run(detached, weight_VD, kind, tau, chunk, /*want_grad=*/true);
    context->save_for_backward({outcome.grad_MD});
    context->mark_non_differentiable({outcome.align_M, outcome.nll_M});
    return {outcome.loss, outcome.align_M, outcome.nll_M};
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const Tensor saved = context->get_saved_variables()[0];
    return {saved * grads[0].to(saved.scalar_type()), Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

DistillLoss distill_loss(const DistillRows& rows, const Tensor& weight_VD, Divergence divergence, double tau,
                         int64_t chunk) {
  const int64_t count = rows.student_MD.size(0);
  CTXC_CHECK(count > 0 && rows.target_M.size(0) == count && rows.align_M.size(0) == count &&
                 rows.ce_M.size(0) == count && rows.teacher_MD.sizes() == rows.student_MD.sizes(),
             ErrorKind::kInternal, "", "distillation: rows do not fit (found {} hidden states, {} targets)",
             count, rows.target_M.size(0));
  if (at::GradMode::is_enabled() && rows.student_MD.requires_grad()) {
    const variable_list out = Distill::apply(rows.student_MD, rows, weight_VD, divergence, tau, chunk);
    return {out[0], out[1], out[2]};
  }
  const Outcome outcome = run(rows, weight_VD, divergence, tau, chunk, /*want_grad=*/false);
  return {outcome.loss, outcome.align_M, outcome.nll_M};
}

}  // namespace ctxc
