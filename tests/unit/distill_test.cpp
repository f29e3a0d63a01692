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

/// The KL over the kept tokens and one class for all others, from the definition.
Tensor merged_reference(const Case& c, const Tensor& student, const Tensor& id_MR, double tau) {
  const auto merged = [&](const Tensor& states) {
    const Tensor p = at::softmax(at::linear(states, c.weight) / tau, 1), kept = p.gather(1, id_MR);
    return at::cat({kept, 1 - kept.sum(1, true)}, 1);
  };
  const Tensor p = merged(c.teacher), q = merged(student);
  return ((p * (p.log() - q.log())).sum(1) * c.align).sum() * tau * tau;
}

TEST(Distill, TopTokensBoundTheKlAndAllOfThemGiveIt) {
  const Case c;
  for (double tau : {1.0, 2.5}) {
    double before = 0;
    for (int64_t count : {1, 4, 12, 29}) {
      const TopRows top = top_rows(c.teacher, c.weight, tau, count, 3);
      EXPECT_LT((top.log_MS.exp().sum(1) - 1).abs().max().item<double>(), 1e-6);
      const auto loss = [&](const Tensor& states) {
        DistillRows rows = c.rows(states);
        rows.ce_M = at::zeros_like(rows.ce_M);
        rows.teacher_MD = at::full_like(c.teacher, 1e9);  // not looked at
        rows.top_id_MR = top.id_MR;
        rows.top_log_MS = top.log_MS;
        return distill_loss(rows, c.weight, Divergence::kForwardKl, tau, 3);
      };
      Tensor states = c.student.clone().requires_grad_(true), expected_states = states.detach().clone();
      expected_states.requires_grad_(true);
      const DistillLoss found = loss(states);
      found.loss.backward();
      const Tensor expected = merged_reference(c, expected_states, top.id_MR, tau);
      expected.backward();
      EXPECT_NEAR(found.loss.item<double>(), expected.item<double>(), 1e-5) << count;
      EXPECT_LT(relative_error(states.grad(), expected_states.grad()), 1e-4) << count;
      EXPECT_GT(found.loss.item<double>(), before) << count;  // more classes, larger KL
      before = found.loss.item<double>();
    }
    Case exact;
    exact.ce.zero_();
    Tensor states = c.student.clone().requires_grad_(true);
    const Tensor whole = reference(exact, states, Divergence::kForwardKl, tau);
    EXPECT_NEAR(before, whole.item<double>(), 1e-5);  // 29 of 30 tokens: the rest is one
  }
  EXPECT_EQ(top_rows(c.teacher, c.weight, 1, 99).id_MR.size(1), 29);
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
