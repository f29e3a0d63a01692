#include "model/loss.h"

#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"
#include "model/kernels/vocabulary_loss.h"

namespace ctxc {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// Loss and, where asked, the gradients of the mean with respect to hidden states and weight.
struct Outcome {
  Tensor loss, grad_MD, grad_VD;
};

/// Adds what a block of dloss/dlogits, times `scale` (a number or [C, 1]), gives.
template <class Scale>
void add_gradients(Outcome& outcome, const Tensor& block_CV, const Tensor& hidden_CD, const Tensor& weight_VD,
                   const Scale& scale, int64_t begin) {
  const Tensor block = block_CV.to(weight_VD.scalar_type());
  if (outcome.grad_MD.defined())
    outcome.grad_MD.narrow(0, begin, hidden_CD.size(0)).copy_(at::mm(block, weight_VD).mul_(scale));
  if (outcome.grad_VD.defined())
    outcome.grad_VD.addmm_(block.t(), (hidden_CD * scale).to(weight_VD.scalar_type()));
}

/// With l the logits of a row, m their maximum, p = exp(l - m), z = sum p:  loss = m + log z - l_target and
/// d loss / d hidden = (p W) / z - W_target. So the [C, V] block is written once and exponentiated in place;
/// the division by z happens on [C, D].
Outcome run(const Tensor& hidden_MD, const Tensor& weight_VD, const Tensor& target_M, int64_t chunk,
            bool hidden_grad, bool weight_grad) {
  const int64_t rows = hidden_MD.size(0);
  Outcome outcome;
  Tensor total = at::zeros({}, hidden_MD.options().dtype(at::kDouble));
  if (hidden_grad) outcome.grad_MD = at::empty_like(hidden_MD);
  if (weight_grad) outcome.grad_VD = at::zeros_like(weight_VD);
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = std::min(chunk, rows - begin);
    const Tensor hidden_CD = hidden_MD.narrow(0, begin, count);
    const Tensor block_CV = at::linear(hidden_CD.to(weight_VD.scalar_type()), weight_VD);
    const auto [loss_C, z_C] =
        cross_entropy_rows_(block_CV, target_M.narrow(0, begin, count), hidden_grad || weight_grad);
    total += loss_C.sum(at::kDouble);
    if (!hidden_grad && !weight_grad) continue;
    const Tensor scale_C1 = (z_C.unsqueeze(1) * static_cast<double>(rows)).reciprocal_();
    add_gradients(outcome, block_CV, hidden_CD, weight_VD, scale_C1, begin);
  }
  outcome.loss = (total / rows).to(at::kFloat);
  return outcome;
}

/// The same for KL(teacher || student); the block becomes p_S - p_T.
Outcome run_kl(const Tensor& hidden_MD, const Tensor& weight_VD, const Tensor& teacher_MD,
               const Tensor& teacher_weight_VD, int64_t chunk, bool hidden_grad, bool weight_grad) {
  const int64_t rows = hidden_MD.size(0);
  Outcome outcome;
  Tensor total = at::zeros({}, hidden_MD.options().dtype(at::kDouble));
  if (hidden_grad) outcome.grad_MD = at::empty_like(hidden_MD);
  if (weight_grad) outcome.grad_VD = at::zeros_like(weight_VD);
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = std::min(chunk, rows - begin);
    const Tensor hidden_CD = hidden_MD.narrow(0, begin, count);
    const Tensor block_CV = at::linear(hidden_CD.to(weight_VD.scalar_type()), weight_VD);
    const Tensor teacher_CV =
        at::linear(teacher_MD.narrow(0, begin, count).to(teacher_weight_VD.scalar_type()), teacher_weight_VD);
    total += kl_rows_(block_CV, teacher_CV.to(block_CV.scalar_type()), hidden_grad || weight_grad)
                 .sum(at::kDouble);
    if (hidden_grad || weight_grad)
      add_gradients(outcome, block_CV, hidden_CD, weight_VD, 1 / static_cast<double>(rows), begin);
  }
  outcome.loss = (total / rows).to(at::kFloat);
  return outcome;
}

/// Backward of a loss whose gradients were formed in the forward pass.
variable_list scale_gradients(AutogradContext* context, const Tensor& grad, size_t inputs) {
  const variable_list saved = context->get_saved_variables();
  variable_list result(inputs);
  for (size_t i = 0; i < saved.size(); ++i)
    if (saved[i].defined()) result[i] = saved[i] * grad.to(saved[i].scalar_type());
  return result;
}

struct ChunkedCrossEntropy : Function<ChunkedCrossEntropy> {
  static Tensor forward(AutogradContext* context, const Tensor& hidden_MD, const Tensor& weight_VD,
                        const Tensor& target_M, int64_t chunk) {
    const Outcome outcome =
        run(hidden_MD, weight_VD, target_M, chunk, hidden_MD.requires_grad(), weight_VD.requires_grad());
    context->save_for_backward({outcome.grad_MD, outcome.grad_VD});
    return outcome.loss;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    return scale_gradients(context, grads[0], 4);
  }
};

struct ChunkedKl : Function<ChunkedKl> {
  static Tensor forward(AutogradContext* context, const Tensor& hidden_MD, const Tensor& weight_VD,
                        const Tensor& teacher_MD, const Tensor& teacher_weight_VD, int64_t chunk) {
    const Outcome outcome = run_kl(hidden_MD, weight_VD, teacher_MD, teacher_weight_VD, chunk,
                                   hidden_MD.requires_grad(), weight_VD.requires_grad());
    context->save_for_backward({outcome.grad_MD, outcome.grad_VD});
    return outcome.loss;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    return scale_gradients(context, grads[0], 5);
  }
};

}  // namespace

Tensor chunked_cross_entropy(const Tensor& hidden_MD, const Tensor& weight_VD, const Tensor& target_M,
                             int64_t chunk) {
  CTXC_CHECK(hidden_MD.size(0) > 0 && hidden_MD.size(0) == target_M.size(0), ErrorKind::kInternal, "",
             "cross-entropy: hidden states and targets do not fit (found {} and {} rows)", hidden_MD.size(0),
             target_M.size(0));
  if (at::GradMode::is_enabled() && (hidden_MD.requires_grad() || weight_VD.requires_grad()))
    return ChunkedCrossEntropy::apply(hidden_MD, weight_VD, target_M, chunk);
  return run(hidden_MD, weight_VD, target_M, chunk, false, false).loss;
}

Tensor chunked_kl_divergence(const Tensor& hidden_MD, const Tensor& weight_VD, const Tensor& teacher_MD,
                             const Tensor& teacher_weight_VD, int64_t chunk) {
  CTXC_CHECK(hidden_MD.size(0) > 0 && hidden_MD.size(0) == teacher_MD.size(0), ErrorKind::kInternal, "",
             "KL: hidden states of student and teacher do not fit (found {} and {} rows)", hidden_MD.size(0),
             teacher_MD.size(0));
  const Tensor teacher = teacher_MD.detach(), teacher_weight = teacher_weight_VD.detach();
  if (at::GradMode::is_enabled() && (hidden_MD.requires_grad() || weight_VD.requires_grad()))
    return ChunkedKl::apply(hidden_MD, weight_VD, teacher, teacher_weight, chunk);
  return run_kl(hidden_MD, weight_VD, teacher, teacher_weight, chunk, false, false).loss;
}

}  // namespace ctxc
