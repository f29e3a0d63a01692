// The row losses over the vocabulary, run on the CPU, against ATen's log-softmax in double.
#include <limits>

#include "kernel_testing.h"
#include "model/kernels/vocabulary_loss.h"

namespace ctxc {
namespace {

using testing::numeric_gradient;
using testing::relative_difference;
using testing::uniform;

Tensor targets(int64_t rows, int64_t vocabulary) {
  return at::arange(rows, at::kLong).mul_(7919).remainder_(vocabulary);
}

/// Loss, z and gradient block.
std::vector<Tensor> ce_kernel(const Tensor& logits, const Tensor& target) {
  const Tensor block = logits.clone();
  const auto [loss, z] = cuda::cross_entropy_rows_(block, target, true);
  return {loss, z, block};
}

std::vector<Tensor> kl_kernel(const Tensor& student, const Tensor& teacher, double tau, bool reverse) {
  const Tensor block = student.clone();
  const Tensor loss = cuda::kl_rows_(block, teacher, tau, reverse, true);
  return {loss, block};
}

TEST(VocabularyLossKernel, CrossEntropyEqualsTheReference) {
  for (const auto& [rows, vocabulary] :
       {std::pair<int64_t, int64_t>{3, 1}, {4, 5}, {3, 29}, {2, 1000}, {2, 4104}, {2, 4111}})
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
      const Tensor logits = uniform({rows, vocabulary}, 1, -6, 6, dtype), target = targets(rows, vocabulary);
      const auto found = testing::under_all_schedules([&] { return ce_kernel(logits, target); });
      Tensor block = logits.to(at::kDouble, false, /*copy=*/true);
      const auto [loss, z] = cross_entropy_rows_(block, target, true);
      EXPECT_LT(relative_difference(found[0], loss), dtype == at::kDouble ? 1e-13 : 1e-5)
          << vocabulary << dtype;
      EXPECT_LT(relative_difference(found[1], z), dtype == at::kDouble ? 1e-13 : 1e-5) << vocabulary << dtype;
      EXPECT_LT(relative_difference(found[2], block), testing::tolerance(dtype)) << vocabulary << dtype;
      EXPECT_EQ(found[2].scalar_type(), dtype);
      // And that the block is z times the gradient of the cross-entropy.
      const Tensor gradient = logits.to(at::kDouble)
                                  .softmax(1)
                                  .scatter_add(1, target.unsqueeze(1), -at::ones({rows, 1}, at::kDouble));
      EXPECT_LT(((found[2].to(at::kDouble) / z.unsqueeze(1)) - gradient).abs().max().item<double>(),
                testing::tolerance(dtype));
    }
}

TEST(VocabularyLossKernel, KlEqualsTheReference) {
  for (const auto& [rows, vocabulary] :
       {std::pair<int64_t, int64_t>{3, 1}, {4, 5}, {3, 29}, {2, 1000}, {2, 4104}})
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16})
      for (const bool reverse : {false, true})
        for (const double tau : {1.0, 2.5}) {
          if (reverse && tau == 1) continue;
          const Tensor student = uniform({rows, vocabulary}, 1, -6, 6, dtype),
                       teacher = uniform({rows, vocabulary}, 2, -6, 6, dtype);
          const auto found =
              testing::under_all_schedules([&] { return kl_kernel(student, teacher, tau, reverse); });
          Tensor block = student.to(at::kDouble, false, /*copy=*/true);
          const Tensor loss = kl_rows_(block, teacher.to(at::kDouble), tau, reverse, true);
          EXPECT_LT((found[0].to(at::kDouble) - loss).abs().max().item<double>(),
                    dtype == at::kDouble ? 1e-12 : 5e-5)
              << vocabulary << dtype << reverse << tau;
          EXPECT_LT((found[1].to(at::kDouble) - block).abs().max().item<double>(), testing::tolerance(dtype))
              << vocabulary << dtype << reverse << tau;
        }
}

TEST(VocabularyLossKernel, KlGradientEqualsFiniteDifferences) {
  const Tensor student = uniform({2, 9}, 1, -2, 2), teacher = uniform({2, 9}, 2, -2, 2);
  for (const bool reverse : {false, true})
    for (const double tau : {1.0, 1.7}) {
      const Tensor numeric = numeric_gradient(
          [&](const Tensor& x) {
            return cuda::kl_rows_(x.clone(), teacher, tau, reverse, false).sum().item<double>();
          },
          student);
      EXPECT_LT(relative_difference(kl_kernel(student, teacher, tau, reverse)[1], numeric), 1e-8);
      const Tensor same = cuda::kl_rows_(student.clone(), student, tau, reverse, false);
      EXPECT_LT(same.abs().max().item<double>(), 1e-14);
    }
}

TEST(VocabularyLossKernel, CrossEntropyGradientEqualsFiniteDifferences) {
  const Tensor logits = uniform({2, 9}, 1, -2, 2), target = targets(2, 9);
  const Tensor numeric = numeric_gradient(
      [&](const Tensor& x) {
        return std::get<0>(cuda::cross_entropy_rows_(x.clone(), target, false)).sum().item<double>();
      },
      logits);
  const auto found = ce_kernel(logits, target);
  EXPECT_LT(relative_difference(found[2] / found[1].unsqueeze(1), numeric), 1e-8);
}

TEST(VocabularyLossKernel, HugeAndInfiniteLogits) {
  const double infinity = std::numeric_limits<double>::infinity();
  Tensor logits = uniform({4, 700}, 1, -1e4, 1e4, at::kFloat);
  logits[1].slice(0, 0, 600).fill_(-infinity);  // whole threads see nothing else
  logits[2].fill_(-infinity);
  logits[2][650] = 3;
  const Tensor target = at::tensor({5, 650, 650, 699}, at::kLong);
  const auto found = ce_kernel(logits, target);
  const Tensor expected = -logits.to(at::kDouble).log_softmax(1).gather(1, target.unsqueeze(1)).squeeze(1);
  EXPECT_LT(relative_difference(found[0], expected), 1e-6);
  EXPECT_TRUE(found[2].isfinite().all().item<bool>());
  EXPECT_EQ(found[0][2].item<float>(), 0);
}

TEST(VocabularyLossKernel, NaNAndStrangeTargetsAreSeen) {
  Tensor logits = uniform({4, 600}, 1, -1, 1, at::kFloat);
  logits[1][77] = std::nan("");
  const auto found = ce_kernel(logits, at::tensor({600, 5, -1, 3}, at::kLong))[0].isnan();
  EXPECT_TRUE(at::equal(found, at::tensor({1, 1, 1, 0}, at::kLong).to(at::kBool)));
}

TEST(VocabularyLossKernel, NoRowsNoGradientMisfits) {
  const Tensor none = at::zeros({0, 7}, at::kFloat);
  EXPECT_EQ(std::get<0>(cuda::cross_entropy_rows_(none, at::zeros({0}, at::kLong), true)).numel(), 0);
  EXPECT_EQ(cuda::kl_rows_(none, none, 1, false, true).numel(), 0);
  const Tensor logits = uniform({3, 7}, 1, -1, 1, at::kFloat), kept = logits.clone();
  cuda::cross_entropy_rows_(logits, targets(3, 7), false);
  EXPECT_TRUE(at::equal(logits, kept));
  EXPECT_THROW(cuda::cross_entropy_rows_(logits, targets(2, 7), false), c10::Error);
  EXPECT_THROW(cuda::cross_entropy_rows_(logits.t(), targets(7, 3), false), c10::Error);
  EXPECT_THROW(cuda::kl_rows_(logits, logits.to(at::kDouble), 1, false, false), c10::Error);
}

}  // namespace
}  // namespace ctxc
