// The Sinkhorn kernels, run on the CPU, against the scaling form in double and the equations as ATen calls.
#include "kernel_testing.h"
#include "model/kernels/sinkhorn.h"
#include "model/numerics.h"

namespace ctxc {
namespace {

using testing::numeric_gradient;
using testing::relative_difference;
using testing::uniform;
using testing::weighted_sum;

struct Problem {
  Tensor cost, a, b;
};

/// `windows` windows; the second has masked rows and a masked column, the third nothing at all.
Problem problem(int64_t windows, int64_t w, int64_t k) {
  Problem p{uniform({windows, w, k}, 1, 0, 2), uniform({windows, w}, 2, 0.1, 1),
            at::full({windows, k}, 1.0 / static_cast<double>(k), at::kDouble)};
  if (windows > 1 && w > 2 && k > 1) {
    p.a[1].slice(0, w - 2).zero_();
    p.b[1].select(0, k - 1).zero_();
    p.b[1] = p.b[1] / p.b[1].sum();
  }
  if (windows > 2) {
    p.a[2].zero_();
    p.b[2].zero_();
  }
  p.a = p.a / p.a.sum(1, true).clamp_min(1e-6);
  return p;
}

/// Plan, gradient of cost and of a, by the kernels in `dtype`.
std::vector<Tensor> by_kernel(const Problem& p, at::ScalarType dtype, int64_t iterations, double epsilon,
                              const Tensor& grad_plan) {
  const Tensor cost = p.cost.to(dtype);
  const auto [plan, u, v] = cuda::sinkhorn_forward(cost, p.a, p.b, iterations, epsilon);
  const auto [grad_cost, grad_a] =
      cuda::sinkhorn_backward(grad_plan.to(dtype), cost, p.a, p.b, u, v, epsilon);
  EXPECT_EQ(plan.scalar_type(), dtype);
  EXPECT_EQ(grad_cost.scalar_type(), dtype);
  return {plan, grad_cost, grad_a};
}

std::vector<Tensor> by_reference(const Problem& p, int64_t iterations, double epsilon,
                                 const Tensor& grad_plan) {
  const auto [plan, u, v] = sinkhorn_forward(p.cost, p.a, p.b, iterations, epsilon);
  const auto [grad_cost, grad_a] = sinkhorn_backward(grad_plan, p.cost, p.a, p.b, u, v, epsilon);
  return {plan, grad_cost, grad_a};
}

TEST(SinkhornKernel, EqualsTheReferenceWithItsGradients) {
  struct Case {
    int64_t windows, w, k, iterations;
  };
  for (const Case c : {Case{3, 6, 3, 7}, Case{3, 33, 32, 3}, Case{2, 16, 4, 8}, Case{1, 1, 1, 2},
                       Case{2, 70, 37, 2}, Case{1, 5, 64, 4}})
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
      Problem p = problem(c.windows, c.w, c.k);
      p.cost = p.cost.to(dtype).to(at::kDouble);  // the reference sees what the kernel sees
      const Tensor grad = uniform({c.windows, c.w, c.k}, 5, -1, 1, dtype).to(at::kDouble);
      const auto found =
          testing::under_all_schedules([&] { return by_kernel(p, dtype, c.iterations, 0.1, grad); });
      const auto expected = by_reference(p, c.iterations, 0.1, grad);
      for (size_t i = 0; i < found.size(); ++i) {
        if (c.w * c.k == 1 && i > 0) continue;  // one cell: its plan is b whatever it costs
        EXPECT_LT(relative_difference(found[i], expected[i]),
                  dtype == at::kDouble ? 1e-11 : testing::tolerance(dtype))
            << "result " << i << " of [" << c.windows << ", " << c.w << ", " << c.k << "] in " << dtype;
      }
    }
}

TEST(SinkhornKernel, GradientEqualsFiniteDifferences) {
  const Problem p = problem(2, 5, 3);
  const Tensor weight = uniform({2, 5, 3}, 6);
  const auto found = by_kernel(p, at::kDouble, 4, 0.2, weight);
  const auto plan = [&](const Tensor& cost, const Tensor& a) {
    return weighted_sum(std::get<0>(cuda::sinkhorn_forward(cost, a, p.b, 4, 0.2)), weight);
  };
  EXPECT_LT(
      relative_difference(found[1], numeric_gradient([&](const Tensor& c) { return plan(c, p.a); }, p.cost)),
      1e-7);
  const Tensor numeric_a = numeric_gradient([&](const Tensor& a) { return plan(p.cost, a); }, p.a);
  EXPECT_LT(relative_difference(found[2], numeric_a.masked_fill(p.a.eq(0), 0)), 1e-7);
  EXPECT_GT(found[1].abs().max().item<double>(), 1e-3);
}

TEST(SinkhornKernel, WindowsBeyondSharedMemoryGiveTheSame) {
  // 300 x 150 float32 are 181 kB forward; backward 200 x 120 are 194 kB.
  for (const auto& [w, k] : {std::pair<int64_t, int64_t>{300, 150}, {200, 120}}) {
    Problem p = problem(1, w, k);
    const Tensor grad = uniform({1, w, k}, 5);
    const auto found = by_kernel(p, at::kFloat, 1, 0.1, grad), expected = by_reference(p, 1, 0.1, grad);
    for (size_t i = 0; i < found.size(); ++i)
      EXPECT_LT(relative_difference(found[i], expected[i]), 2e-5) << "result " << i;
  }
}

TEST(SinkhornKernel, TakesCostsTheScalingFormRefuses) {
  Problem p = problem(1, 8, 4);
  p.cost = p.cost * 100;  // exponents down to -2000
  EXPECT_THROW(sinkhorn_plan(p.cost, p.a, p.b, 5, 0.1), std::exception);
  const Tensor expected = sinkhorn_plan_plain(p.cost, p.a, p.b, 5, 0.1);
  EXPECT_LT(relative_difference(std::get<0>(cuda::sinkhorn_forward(p.cost, p.a, p.b, 5, 0.1)), expected),
            1e-11);
}

TEST(SinkhornKernel, MasksCarryNothingAndNaNStays) {
  Problem p = problem(3, 6, 3);
  const Tensor grad = at::ones({3, 6, 3}, at::kDouble);
  const auto found = by_kernel(p, at::kFloat, 6, 0.1, grad);
  EXPECT_EQ(found[0][2].abs().max().item<double>(), 0);
  EXPECT_EQ(found[0][1].slice(0, 4).abs().max().item<double>(), 0);
  EXPECT_EQ(found[0][1].select(1, 2).abs().max().item<double>(), 0);
  EXPECT_EQ(found[1][2].abs().max().item<double>(), 0);
  EXPECT_LT(relative_difference(found[0].sum(1), p.b), 1e-5);
  p.cost[0][1][1] = std::nan("");
  const auto broken = by_kernel(p, at::kFloat, 6, 0.1, grad);
  EXPECT_TRUE(broken[0][0].isnan().any().item<bool>());
  EXPECT_FALSE(broken[0][1].isnan().any().item<bool>());
}

TEST(SinkhornKernel, EmptySizesAndStridedTensors) {
  for (const auto& shape : {std::vector<int64_t>{0, 4, 2}, {2, 0, 3}, {2, 3, 0}}) {
    const Tensor cost = at::zeros(shape, at::kFloat), a = at::zeros({shape[0], shape[1]}, at::kFloat),
                 b = at::zeros({shape[0], shape[2]}, at::kFloat);
    const auto [plan, u, v] = cuda::sinkhorn_forward(cost, a, b, 3, 0.1);
    EXPECT_EQ(plan.sizes(), cost.sizes());
    const auto [grad_cost, grad_a] = cuda::sinkhorn_backward(cost, cost, a, b, u, v, 0.1);
    EXPECT_EQ(grad_cost.sizes(), cost.sizes());
    EXPECT_EQ(grad_a.numel() == 0 ? 0 : grad_a.abs().max().item<double>(), 0);
  }
  const Problem p = problem(2, 6, 3);
  const Tensor strided = p.cost.transpose(1, 2).contiguous().transpose(1, 2);
  ASSERT_FALSE(strided.is_contiguous());
  EXPECT_TRUE(at::equal(std::get<0>(cuda::sinkhorn_forward(strided, p.a, p.b, 3, 0.1)),
                        std::get<0>(cuda::sinkhorn_forward(p.cost, p.a, p.b, 3, 0.1))));
  EXPECT_THROW(cuda::sinkhorn_forward(p.cost, p.a.slice(1, 0, 2), p.b, 3, 0.1), c10::Error);
}

}  // namespace
}  // namespace ctxc
