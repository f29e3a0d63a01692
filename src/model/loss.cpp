#include "model/loss.h"

#include <torch/csrc/autograd/custom_function.h>

#include "core/error.h"

namespace ctxc {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// Loss and, where asked, the gradients of the mean with respect to hidden states and weight.
struct Outcome {
  Tensor loss, grad_MD, grad_VD;
};

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
    const Tensor target_C1 = target_M.narrow(0, begin, count).unsqueeze(1);
    Tensor block_CV = at::linear(hidden_CD.to(weight_VD.scalar_type()), weight_VD).to(at::kFloat);
    const Tensor top_C1 = block_CV.amax(1, /*keepdim=*/true);
    const Tensor wanted_C1 = block_CV.gather(1, target_C1);
    block_CV.sub_(top_C1).exp_();
    const Tensor z_C1 = block_CV.sum(1, /*keepdim=*/true);
    total += (top_C1 + z_C1.log() - wanted_C1).sum(at::kDouble);
    if (!hidden_grad && !weight_grad) continue;
    block_CV.scatter_add_(1, target_C1, -z_C1);
    const Tensor scale_C1 = (z_C1 * static_cast<double>(rows)).reciprocal_();
    const Tensor block = block_CV.to(weight_VD.scalar_type());
    if (hidden_grad) outcome.grad_MD.narrow(0, begin, count).copy_(at::mm(block, weight_VD).mul_(scale_C1));
    if (weight_grad) outcome.grad_VD.addmm_(block.t(), (hidden_CD * scale_C1).to(weight_VD.scalar_type()));
  }
  outcome.loss = (total / rows).to(at::kFloat);
  return outcome;
}

struct ChunkedCrossEntropy : Function<ChunkedCrossEntropy> {
  static Tensor forward(AutogradContext* context, const Tensor& hidden_MD, const Tensor& weight_VD,
                        const Tensor& target_M, int64_t chunk) {
    Outcome outcome =
        run(hidden_MD, weight_VD, target_M, chunk, hidden_MD.requires_grad(), weight_VD.requires_grad());
    context->save_for_backward({outcome.grad_MD, outcome.grad_VD});
    return outcome.loss;
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const variable_list saved = context->get_saved_variables();
    const auto scaled = [&](const Tensor& grad) {
      return grad.defined() ? grad * grads[0].to(grad.scalar_type()) : Tensor();
    };
    return {scaled(saved[0]), scaled(saved[1]), Tensor(), Tensor()};
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

}  // namespace ctxc
