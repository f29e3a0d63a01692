#include "model/distill.h"

#include <limits>

#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "model/kernels/vocabulary_loss.h"

namespace ctxc {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// Value [C] of the divergence of one chunk; with `want_grad` its gradient [C, V] takes the place of the
/// student's logits.
Tensor divergence_of(Tensor& student_CV, const Tensor& teacher_CV, Divergence kind, double tau,
                     bool want_grad) {
  if (kind != Divergence::kLogitMse)
    return kl_rows_(student_CV, teacher_CV, tau, kind == Divergence::kReverseKl, want_grad);
  const Tensor gap_CV = student_CV.to(at::kFloat) - teacher_CV.to(at::kFloat);
  student_CV = gap_CV * (2.0 / static_cast<double>(gap_CV.size(1)));
  return gap_CV.square().mean(1);
}

/// log sum exp of the logits that `id_CR` leaves out, [C, 1].
Tensor log_rest(const Tensor& logits_CV, const Tensor& id_CR) {
  return at::logsumexp(logits_CV.scatter(1, id_CR, -std::numeric_limits<double>::infinity()), {1}, true);
}

/// divergence_of() for a teacher of k + 1 classes.
Tensor top_divergence(Tensor& student_CV, const Tensor& id_CR, const Tensor& log_CS, double tau,
                      bool want_grad) {
  const Tensor z_CV = student_CV.to(at::kFloat) / tau;
  const Tensor all_C1 = at::logsumexp(z_CV, {1}, true), rest_C1 = log_rest(z_CV, id_CR);
  const Tensor log_q_CS = at::cat({z_CV.gather(1, id_CR), rest_C1}, 1) - all_C1, p_CS = log_CS.exp();
  const Tensor value_C = (p_CS * (log_CS - log_q_CS)).sum(1) * (tau * tau);
  if (want_grad) {
    const Tensor rest_p_C1 = p_CS.narrow(1, id_CR.size(1), 1);
    Tensor gradient_CV = (z_CV - all_C1).exp();
    const Tensor outside_CV = (z_CV - rest_C1).exp().mul_(rest_p_C1).scatter_(1, id_CR, 0);
    gradient_CV.sub_(outside_CV).scatter_add_(1, id_CR, -p_CS.narrow(1, 0, id_CR.size(1)));
    student_CV = gradient_CV.mul_(tau);
  }
  return value_C;
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
    return at::linear(hidden_CD.to(weight_VD.scalar_type()), weight_VD);
  };
  for (int64_t begin = 0; begin < count; begin += chunk) {
    const int64_t size = std::min(chunk, count - begin);
    const auto part = [&](const Tensor& tensor) { return tensor.narrow(0, begin, size); };
    Tensor student_CV = logits(part(rows.student_MD)), aligned_CV;
    const Tensor align_C = part(rows.align_M), ce_C = part(rows.ce_M);
    if (align_C.any().item<bool>()) {
      aligned_CV = student_CV.clone();
      const Tensor value_C =
          rows.top_id_MR.defined()
              ? top_divergence(aligned_CV, part(rows.top_id_MR), part(rows.top_log_MS), tau, want_grad)
              : divergence_of(aligned_CV, logits(part(rows.teacher_MD)), kind, tau, want_grad);
      part(outcome.align_M).copy_(value_C.masked_fill(align_C == 0, 0));
      outcome.loss += (value_C * align_C).sum(at::kDouble);
    }
    const auto [nll_C, z_C] = cross_entropy_rows_(student_CV, part(rows.target_M), want_grad);
    part(outcome.nll_M).copy_(nll_C);
    outcome.loss += (nll_C * ce_C).sum(at::kDouble);
    if (!want_grad) continue;
    student_CV.mul_((ce_C / z_C).unsqueeze(1));
    if (aligned_CV.defined()) student_CV.add_(aligned_CV.mul_(align_C.unsqueeze(1)));
    part(outcome.grad_MD).copy_(at::mm(student_CV, weight_VD));
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

TopRows top_rows(const Tensor& hidden_MD, const Tensor& weight_VD, double tau, int64_t count, int64_t chunk) {
  const at::NoGradGuard no_grad;
  const int64_t kept = std::min(count, weight_VD.size(0) - 1);
  std::vector<Tensor> ids, logs;
  for (const Tensor& part : hidden_MD.split(chunk)) {
    const Tensor z_CV =
        at::log_softmax(at::linear(part.to(weight_VD.scalar_type()), weight_VD).to(at::kFloat) / tau, 1);
    const auto [value_CR, id_CR] = z_CV.topk(kept, 1);
    ids.push_back(id_CR);
    logs.push_back(at::cat({value_CR, log_rest(z_CV, id_CR)}, 1));
  }
  return {at::cat(ids), at::cat(logs)};
}

DistillLoss distill_loss(const DistillRows& rows, const Tensor& weight_VD, Divergence divergence, double tau,
                         int64_t chunk) {
  const int64_t count = rows.student_MD.size(0);
  CTXC_CHECK(count > 0 && rows.target_M.size(0) == count && rows.align_M.size(0) == count &&
                 rows.ce_M.size(0) == count && rows.teacher_MD.sizes() == rows.student_MD.sizes(),
             ErrorKind::kInternal, "", "distillation: rows do not fit (found {} hidden states, {} targets)",
             count, rows.target_M.size(0));
  CTXC_CHECK(!rows.top_id_MR.defined() ||
                 (divergence == Divergence::kForwardKl && rows.top_id_MR.size(0) == count &&
                  rows.top_log_MS.size(0) == count && rows.top_log_MS.size(1) == rows.top_id_MR.size(1) + 1),
             ErrorKind::kInternal, "", "distillation: top tokens are for the forward KL of as many rows");
  if (at::GradMode::is_enabled() && rows.student_MD.requires_grad()) {
    const variable_list out = Distill::apply(rows.student_MD, rows, weight_VD, divergence, tau, chunk);
    return {out[0], out[1], out[2]};
  }
  const Outcome outcome = run(rows, weight_VD, divergence, tau, chunk, /*want_grad=*/false);
  return {outcome.loss, outcome.align_M, outcome.nll_M};
}

}  // namespace ctxc
