#include "model/loss.h"

#include <gtest/gtest.h>

#include "throws.h"
#include "tiny_llama.h"

namespace ctxc {
namespace {

using testing::random_tensor;
using testing::relative_error;

/// Value and both gradients of 3 * loss, by chunks or by the full logits.
std::vector<Tensor> run(bool chunked, bool hidden_grad, bool weight_grad, int64_t chunk) {
  const Tensor hidden = (random_tensor({11, 8}, 1) * 4).requires_grad_(hidden_grad);
  const Tensor weight = (random_tensor({29, 8}, 2) * 4).requires_grad_(weight_grad);
  const Tensor target = at::arange(11, at::kLong) * 2;
  const Tensor loss = chunked ? chunked_cross_entropy(hidden, weight, target, chunk)
                              : at::cross_entropy_loss(at::linear(hidden, weight), target);
  if (hidden_grad || weight_grad) (loss * 3).backward();
  return {loss.detach(), hidden.grad(), weight.grad()};
}

TEST(ChunkedCrossEntropy, EqualsTheFullOneWithItsGradients) {
  for (const bool hidden_grad : {false, true})
    for (const bool weight_grad : {false, true})
      for (const int64_t chunk : {1, 4, 11, 256}) {
        const auto found = run(true, hidden_grad, weight_grad, chunk),
                   expected = run(false, hidden_grad, weight_grad, chunk);
        for (size_t i = 0; i < found.size(); ++i) {
          ASSERT_EQ(found[i].defined(), expected[i].defined()) << i;
          if (!found[i].defined()) continue;
          EXPECT_LT(relative_error(found[i], expected[i]), 2e-6) << i << " chunk " << chunk;
        }
      }
}

TEST(TokenNll, IsTheCrossEntropyOfEveryRow) {
  const Tensor hidden = random_tensor({11, 8}, 1) * 4, weight = random_tensor({29, 8}, 2) * 4;
  const Tensor target = at::arange(11, at::kLong) * 2;
  const Tensor expected = at::cross_entropy_loss(at::linear(hidden, weight), target, {}, at::Reduction::None);
  for (const int64_t chunk : {1, 4, 256})
    EXPECT_LT(relative_error(token_nll(hidden, weight, target, chunk), expected), 2e-6);
}

TEST(ChunkedCrossEntropy, StaysFiniteOnHugeLogits) {
  const Tensor hidden = (random_tensor({3, 4}, 1) * 1e4).requires_grad_();
  const Tensor loss =
      chunked_cross_entropy(hidden, random_tensor({7, 4}, 2) * 1e4, at::tensor({0, 3, 6}, at::kLong));
  loss.backward();
  EXPECT_TRUE(loss.isfinite().item<bool>());
  EXPECT_TRUE(hidden.grad().isfinite().all().item<bool>());
}

TEST(ChunkedCrossEntropy, RefusesWhatDoesNotFit) {
  testing::expect_error(ErrorKind::kInternal, "found 3 and 2 rows", [] {
    chunked_cross_entropy(at::zeros({3, 4}), at::zeros({7, 4}), at::zeros({2}, at::kLong));
  });
  testing::expect_error(ErrorKind::kInternal, "found 0 and 0 rows", [] {
    chunked_cross_entropy(at::zeros({0, 4}), at::zeros({7, 4}), at::zeros({0}, at::kLong));
  });
}

TEST(ChunkedKl, EqualsTheFullOneWithItsGradient) {
  const Tensor teacher = random_tensor({11, 8}, 3) * 4, weight = random_tensor({29, 8}, 2) * 4;
  for (const int64_t chunk : {1, 4, 11, 256}) {
    Tensor gradients[2], values[2];
    for (const bool chunked : {false, true}) {
      const Tensor hidden = (random_tensor({11, 8}, 1) * 4).requires_grad_();
      const Tensor target = at::linear(teacher, weight).log_softmax(1);
      const Tensor plain = (target.exp() * (target - at::linear(hidden, weight).log_softmax(1))).sum() / 11;
      const Tensor loss = chunked ? chunked_kl_divergence(hidden, weight, teacher, weight, chunk) : plain;
      (loss * 3).backward();
      gradients[chunked] = hidden.grad();
      values[chunked] = loss.detach();
    }
    EXPECT_LT(relative_error(values[1], values[0]), 2e-6);
    EXPECT_LT(relative_error(gradients[1], gradients[0]), 2e-5);
  }
  EXPECT_NEAR(chunked_kl_divergence(teacher, weight, teacher, weight).item<double>(), 0, 1e-6);
}

TEST(ChunkedKl, RefusesWhatDoesNotFit) {
  testing::expect_error(ErrorKind::kInternal, "found 3 and 2 rows", [] {
    chunked_kl_divergence(at::zeros({3, 4}), at::zeros({7, 4}), at::zeros({2, 4}), at::zeros({7, 4}));
  });
}

}  // namespace
}  // namespace ctxc
