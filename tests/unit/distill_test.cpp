// Distillation on stored hidden states against autograd on full logits.
#include "model/distill.h"

#include "testing.h"
#include "tiny_llama.h"

namespace ctxc {
namespace {

using testing::random_tensor;
using testing::relative_error;

struct Case {
  Tensor student = random_tensor({7, 12}, 1), teacher = random_tensor({7, 12}, 2),
         weight = random_tensor({30, 12}, 3);
  Tensor target = at::tensor({3, 0, 29, 7, 7, 1, 15}, at::kLong);
  Tensor align = at::tensor({1.0, 0.5, 0.0, 0.25, 0.0, 2.0, 1.0}).to(at::kFloat);
  Tensor ce = at::tensor({0.0, 0.5, 1.0, 0.25, 0.0, 0.0, 1.0}).to(at::kFloat);

  DistillRows rows(const Tensor& states) const { return {states, teacher, target, align, ce}; }
};

/// The same from the definition, over full logits.
Tensor reference(const Case& c, const Tensor& student, Divergence kind, double tau) {
  const Tensor s = at::linear(student, c.weight), t = at::linear(c.teacher, c.weight);
  const Tensor log_q = at::log_softmax(s / tau, 1), log_p = at::log_softmax(t / tau, 1);
  Tensor value = (log_p.exp() * (log_p - log_q)).sum(1) * tau * tau;
  if (kind == Divergence::kReverseKl) value = (log_q.exp() * (log_q - log_p)).sum(1) * tau * tau;
  if (kind == Divergence::kLogitMse) value = (s - t).square().mean(1);
  const Tensor nll = -at::log_softmax(s, 1).gather(1, c.target.unsqueeze(1)).squeeze(1);
  return (value * c.align).sum() + (nll * c.ce).sum();
}

TEST(Distill, ValuesAndGradientsOfEveryDivergence) {
  const Case c;
  for (Divergence kind : {Divergence::kForwardKl, Divergence::kReverseKl, Divergence::kLogitMse}) {
    for (double tau : {1.0, 2.5}) {
      Tensor expected_states = c.student.clone().requires_grad_(true);
      const Tensor expected = reference(c, expected_states, kind, tau);
      expected.backward();
      for (int64_t chunk : {2, 3, 100}) {
        Tensor states = c.student.clone().requires_grad_(true);
        const DistillLoss found = distill_loss(c.rows(states), c.weight, kind, tau, chunk);
        (found.loss * 1.0).backward();
        EXPECT_NEAR(found.loss.item<double>(), expected.item<double>(), 1e-5);
        EXPECT_LT(relative_error(states.grad(), expected_states.grad()), 1e-5);
      }
    }
  }
}

TEST(Distill, RowsWithoutWeightAreLeftOut) {
  const Case c;
  DistillRows rows = c.rows(c.student);
  const DistillLoss before = distill_loss(rows, c.weight, Divergence::kForwardKl, 1, 2);
  EXPECT_EQ(before.align_M[2].item<double>(), 0);
  rows.teacher_MD = c.teacher.clone();
  rows.teacher_MD[2].fill_(100);
  rows.teacher_MD[4].fill_(-100);
  const DistillLoss after = distill_loss(rows, c.weight, Divergence::kForwardKl, 1, 2);
  EXPECT_EQ(after.loss.item<double>(), before.loss.item<double>());
  rows.teacher_MD = c.student;
  EXPECT_NEAR(distill_loss(rows, c.weight, Divergence::kForwardKl, 1).align_M.abs().max().item<double>(), 0,
              1e-6);
}

}  // namespace
}  // namespace ctxc
