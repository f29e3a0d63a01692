#include "model/numerics.h"

#include <cmath>
#include <functional>

#include "core/error.h"
#include "core/random.h"
#include "testing.h"

namespace ctxc {
namespace {

Tensor uniform(at::IntArrayRef shape, uint64_t index, double low, double high) {
  Tensor t = at::empty(shape, at::kDouble);
  CounterRng rng(7, "numerics_test", 0, index);
  double* data = t.mutable_data_ptr<double>();
  for (int64_t i = 0; i < t.numel(); ++i) data[i] = low + (high - low) * rng.uniform();
  return t;
}

struct Problem {
  Tensor cost, a, b;
};

/// Three windows of 6 x 3: full; the last slot and the rows of its run masked; empty.
Problem problem() {
  Problem p{uniform({3, 6, 3}, 1, 0, 2), uniform({3, 6}, 2, 0.1, 1), at::full({3, 3}, 1.0 / 3, at::kDouble)};
  p.a[1].slice(0, 4).zero_();
  p.a[2].zero_();
  p.a = p.a / p.a.sum(1, true).clamp_min(1e-6);
  p.b[1] = at::tensor({0.5, 0.5, 0.0}, at::kDouble);
  p.b[2].zero_();
  return p;
}

/// Straight from the definition, scalar by scalar, in long double.
double slow_plan(const Problem& p, int64_t n, int64_t row, int64_t column, int64_t iterations,
                 double epsilon) {
  const int64_t w = p.cost.size(1), k = p.cost.size(2);
  auto kernel = [&](int64_t i, int64_t j) { return -(long double)p.cost[n][i][j].item<double>() / epsilon; };
  auto a = [&](int64_t i) { return (long double)p.a[n][i].item<double>(); };
  auto b = [&](int64_t j) { return (long double)p.b[n][j].item<double>(); };
  std::vector<long double> u(w, 0), v(k, 0);
  for (int64_t t = 0; t < iterations; ++t) {
    for (int64_t i = 0; i < w; ++i) {
      long double sum = 0;
      for (int64_t j = 0; j < k; ++j) sum += v[j] < -1e8L ? 0 : std::exp(kernel(i, j) + v[j]);
      u[i] = a(i) > 0 ? std::log(a(i)) - std::log(sum) : -1e9L;
    }
    for (int64_t j = 0; j < k; ++j) {
      long double sum = 0;
      for (int64_t i = 0; i < w; ++i) sum += u[i] < -1e8L ? 0 : std::exp(kernel(i, j) + u[i]);
      v[j] = b(j) > 0 ? std::log(b(j)) - std::log(sum) : -1e9L;
    }
  }
  if (!(a(row) > 0) || !(b(column) > 0)) return 0;
  return static_cast<double>(std::exp(kernel(row, column) + u[row] + v[column]));
}

double difference(const Tensor& x, const Tensor& y) {
  return (x - y).abs().max().item<double>();
}

TEST(Sinkhorn, EqualsTheDefinition) {
  const Problem p = problem();
  const Tensor fast = sinkhorn_plan(p.cost, p.a, p.b, 7, 0.1),
               plain = sinkhorn_plan_plain(p.cost, p.a, p.b, 7, 0.1);
  for (int64_t n = 0; n < 3; ++n)
    for (int64_t i = 0; i < 6; ++i)
      for (int64_t j = 0; j < 3; ++j) {
        const double expected = slow_plan(p, n, i, j, 7, 0.1);
        EXPECT_NEAR(fast[n][i][j].item<double>(), expected, 1e-12);
        EXPECT_NEAR(plain[n][i][j].item<double>(), expected, 1e-12);
      }
}

TEST(Sinkhorn, ColumnsSumToTheTarget) {
  const Problem p = problem();
  const Tensor plan = sinkhorn_plan(p.cost.to(at::kFloat), p.a.to(at::kFloat), p.b.to(at::kFloat), 30, 0.1);
  EXPECT_EQ(plan.scalar_type(), at::kFloat);
  EXPECT_LT(difference(plan.sum(1), p.b), 1e-6);
  EXPECT_EQ(plan[2].abs().max().item<double>(), 0);
  EXPECT_EQ(plan[1].slice(0, 4).abs().max().item<double>(), 0);
}

TEST(Sinkhorn, FirstRowUpdateSeesMaskedColumns) {
  // With one iteration u depends on the masked column's cost: v is 0 everywhere before it.
  Problem p = problem();
  const Tensor before = sinkhorn_plan(p.cost, p.a, p.b, 1, 0.1);
  p.cost.select(0, 1).select(1, 2).copy_(uniform({6}, 9, 0, 0.2));
  EXPECT_GT(difference(before[1], sinkhorn_plan(p.cost, p.a, p.b, 1, 0.1)[1]), 1e-6);
}

TEST(Sinkhorn, GradientEqualsTheUnrolledOne) {
  const Problem p = problem();
  const Tensor weight = uniform({3, 6, 3}, 3, -1, 1);
  Tensor gradients[2][2];
  for (int fast = 0; fast < 2; ++fast) {
    Tensor cost = p.cost.clone().requires_grad_(), a = p.a.clone().requires_grad_();
    const Tensor plan =
        fast ? sinkhorn_plan(cost, a, p.b, 5, 0.2) : sinkhorn_plan_plain(cost, a, p.b, 5, 0.2);
    (plan * weight).sum().backward();
    gradients[fast][0] = cost.grad();
    gradients[fast][1] = a.grad().masked_fill(p.a.eq(0), 0);
  }
  EXPECT_GT(gradients[0][0].abs().max().item<double>(), 1e-3);
  EXPECT_LT(difference(gradients[0][0], gradients[1][0]), 1e-12);
  EXPECT_LT(difference(gradients[0][1], gradients[1][1]), 1e-12);
}

TEST(Sinkhorn, GradientEqualsFiniteDifferences) {
  const Problem p = problem();
  const Tensor weight = uniform({3, 6, 3}, 4, -1, 1);
  Tensor cost = p.cost.clone().requires_grad_(), a = p.a.clone().requires_grad_();
  (sinkhorn_plan(cost, a, p.b, 4, 0.1) * weight).sum().backward();
  auto value = [&](const Tensor& c, const Tensor& m) {
    return (sinkhorn_plan(c, m, p.b, 4, 0.1) * weight).sum().item<double>();
  };
  const double step = 1e-6;
  for (int64_t i = 0; i < p.cost.numel(); ++i) {
    Tensor up = p.cost.clone(), down = p.cost.clone();
    up.view(-1)[i] += step;
    down.view(-1)[i] -= step;
    EXPECT_NEAR(cost.grad().view(-1)[i].item<double>(), (value(up, p.a) - value(down, p.a)) / (2 * step),
                1e-7);
  }
  for (int64_t i = 0; i < 12; ++i) {
    if (p.a.view(-1)[i].item<double>() == 0) continue;
    Tensor up = p.a.clone(), down = p.a.clone();
    up.view(-1)[i] += step;
    down.view(-1)[i] -= step;
    EXPECT_NEAR(a.grad().view(-1)[i].item<double>(), (value(p.cost, up) - value(p.cost, down)) / (2 * step),
                1e-7);
  }
}

TEST(Sinkhorn, KeepsNaNAndRefusesTinyEpsilon) {
  Problem p = problem();
  EXPECT_THROW(sinkhorn_plan(p.cost, p.a, p.b, 5, 0.001), Error);
  p.cost[0][0][0] = std::nan("");
  EXPECT_TRUE(sinkhorn_plan(p.cost, p.a, p.b, 5, 0.1).isnan().any().item<bool>());
}

}  // namespace
}  // namespace ctxc
