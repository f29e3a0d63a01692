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

/// What a loss makes of one block of logits: the sum of its rows' values, and what the gradient left in the
/// block is still to be multiplied with (a number or [C, 1]).
template <class Scale>
struct BlockLoss {
  Tensor sum;
  Scale scale;
};

/// Mean over rows of `loss_of(block_CV, begin, count, gradient)`, one block of logits at a time. The block is
/// written once; `loss_of` turns it into its gradient in place.
template <class LossOf>
Outcome by_blocks(const Tensor& hidden_MD, const Tensor& weight_VD, int64_t chunk, bool with_gradients,
                  const LossOf& loss_of) {
  const int64_t rows = hidden_MD.size(0);
  Outcome outcome;
  Tensor total = at::zeros({}, hidden_MD.options().dtype(at::kDouble));
  if (with_gradients && hidden_MD.requires_grad()) outcome.grad_MD = at::empty_like(hidden_MD);
  if (with_gradients && weight_VD.requires_grad()) outcome.grad_VD = at::zeros_like(weight_VD);
  for (int64_t begin = 0; begin < rows; begin += chunk) {
    const int64_t count = std::min(chunk, rows - begin);
    const Tensor hidden_CD = hidden_MD.narrow(0, begin, count);
    const Tensor block_CV = at::linear(hidden_CD.to(weight_VD.scalar_type()), weight_VD);
    const auto [sum, scale] = loss_of(block_CV, begin, count, with_gradients);
    total += sum;
    if (with_gradients) add_gradients(outcome, block_CV, hidden_CD, weight_VD, scale, begin);
  }
  outcome.loss = (total / rows).to(at::kFloat);
  return outcome;
}

/// With l the logits of a row, m their maximum, p = exp(l - m), z = sum p:  loss = m + log z - l_target and
/// d loss / d hidden = (p W) / z - W_target: the division by z happens on [C, D].
Outcome run_ce(const Tensor& hidden_MD, const Tensor& weight_VD, const Tensor& target_M, int64_t chunk,
               bool with_gradients) {
  const auto rows = static_cast<double>(hidden_MD.size(0));
  return by_blocks(
      hidden_MD, weight_VD, chunk, with_gradients,
      [&](const Tensor& block_CV, int64_t begin, int64_t count, bool gradient) {
        const auto [loss_C, z_C] = cross_entropy_rows_(block_CV, target_M.narrow(0, begin, count), gradient);
        return BlockLoss<Tensor>{loss_C.sum(at::kDouble), (z_C.unsqueeze(1) * rows).reciprocal_()};
      });
}

/// KL(teacher || student); the block becomes p_S - p_T.
Outcome run_kl(const Tensor& hidden_MD, const Tensor& weight_VD, const Tensor& teacher_MD,
               const Tensor& teacher_weight_VD, int64_t chunk, bool with_gradients) {
  const auto rows = static_cast<double>(hidden_MD.size(0));
  return by_blocks(hidden_MD, weight_VD, chunk, with_gradients,
                   [&](const Tensor& block_CV, int64_t begin, int64_t count, bool gradient) {
                     const Tensor states_CD =
                         teacher_MD.narrow(0, begin, count).to(teacher_weight_VD.scalar_type());
                     const Tensor teacher_CV = at::linear(states_CD, teacher_weight_VD);
                     const Tensor loss_C = kl_rows_(block_CV, teacher_CV.to(block_CV.scalar_type()),
                                                    /*tau=*/1, /*reverse=*/false, gradient);
                     return BlockLoss<double>{loss_C.sum(at::kDouble), 1 / rows};
                   });
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
    const Outcome outcome = run_ce(hidden_MD, weight_VD, target_M, chunk, /*with_gradients=*/true);
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
    const Outcome outcome =
        run_kl(hidden_MD, weight_VD, teacher_MD, teacher_weight_VD, chunk, /*with_gradients=*/true);
    context->save_for_backward({outcome.grad_MD, outcome.grad_VD});
    return outcome.loss;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    return scale_gradients(context, grads[0], 5);
  }
};

void check_rows(const Tensor& hidden_MD, const Tensor& target_M) {
  CTXC_CHECK(hidden_MD.size(0) > 0 && hidden_MD.size(0) == target_M.size(0), ErrorKind::kInternal, "",
             "cross-entropy: hidden states and targets do not fit (found {} and {} rows)", hidden_MD.size(0),
             target_M.size(0));
}

}  // namespace

Tensor chunked_cross_entropy(const Tensor& hidden_MD, const Tensor& weight_VD, const Tensor& target_M,
                             int64_t chunk) {
  check_rows(hidden_MD, target_M);
  if (at::GradMode::is_enabled() && (hidden_MD.requires_grad() || weight_VD.requires_grad()))
    return ChunkedCrossEntropy::apply(hidden_MD, weight_VD, target_M, chunk);
  return run_ce(hidden_MD, weight_VD, target_M, chunk, /*with_gradients=*/false).loss;
}

Tensor chunked_kl_divergence(const Tensor& hidden_MD, const Tensor& weight_VD, const Tensor& teacher_MD,
                             const Tensor& teacher_weight_VD, int64_t chunk) {
  CTXC_CHECK(hidden_MD.size(0) > 0 && hidden_MD.size(0) == teacher_MD.size(0), ErrorKind::kInternal, "",
             "KL: hidden states of student and teacher do not fit (found {} and {} rows)", hidden_MD.size(0),
             teacher_MD.size(0));
  const Tensor teacher = teacher_MD.detach(), teacher_weight = teacher_weight_VD.detach();
  if (at::GradMode::is_enabled() && (hidden_MD.requires_grad() || weight_VD.requires_grad()))
    return ChunkedKl::apply(hidden_MD, weight_VD, teacher, teacher_weight, chunk);
  return run_kl(hidden_MD, weight_VD, teacher, teacher_weight, chunk, /*with_gradients=*/false).loss;
}

Tensor token_nll(const Tensor& hidden_MD, const Tensor& weight_VD, const Tensor& target_M, int64_t chunk) {
  const at::NoGradGuard no_grad;
  check_rows(hidden_MD, target_M);
  std::vector<Tensor> blocks;
  for (int64_t begin = 0; begin < hidden_MD.size(0); begin += chunk) {
    const int64_t count = std::min(chunk, hidden_MD.size(0) - begin);
    const Tensor block_CV =
        at::linear(hidden_MD.narrow(0, begin, count).to(weight_VD.scalar_type()), weight_VD);
    blocks.push_back(
        std::get<0>(cross_entropy_rows_(block_CV, target_M.narrow(0, begin, count), /*gradient=*/false)));
  }
  return at::cat(blocks).to(at::kFloat);
}

}  // namespace ctxc
