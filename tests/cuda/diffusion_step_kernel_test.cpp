// The diffusion channel and the DDIM update, run on the CPU, against the ATen expressions and their autograd.
#include "model/kernels/diffusion_step.h"

#include <limits>

#include "kernel_testing.h"

namespace ctxc {
namespace {

using testing::numeric_gradient;
using testing::relative_difference;
using testing::uniform;
using testing::weighted_sum;

constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::ScalarType wide(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

Tensor leaf(const Tensor& x) {
  return x.to(at::kDouble, false, /*copy=*/true).requires_grad_();
}

Tensor zero_if_none(const Tensor& gradient, const Tensor& like) {
  return gradient.defined() ? gradient : at::zeros_like(like);
}

/// Shape of the log-SNRs of latents: a level a row, or one an element.
std::vector<int64_t> levels_of(std::vector<int64_t> latents, bool each) {
  if (!each) latents.pop_back();
  return latents;
}

const std::vector<std::vector<int64_t>> kShapes = {{1, 1},   {3, 5, 8}, {2, 3, 37},
                                                   {17, 64}, {2, 516},  {9, 2, 12}};
const std::vector<at::ScalarType> kTypes = {at::kDouble, at::kFloat, at::kBFloat16};

std::vector<Tensor> diffuse_kernels(const Tensor& clean, const Tensor& level,
                                    const std::optional<Tensor>& eps, const Tensor& grad) {
  const auto [grad_clean, grad_level] = cuda::diffuse_backward(grad, clean, level, eps);
  return {cuda::diffuse(clean, level, eps), grad_clean, grad_level};
}

TEST(DiffuseKernel, EqualsTheReferenceWithItsGradients) {
  for (const auto& shape : kShapes)
    for (const at::ScalarType dtype : kTypes)
      for (const bool each : {false, true})
        for (const bool noisy : {true, false}) {
          const Tensor clean = uniform(shape, 1, -2, 2, dtype), grad = uniform(shape, 3, -1, 1, dtype),
                       level = uniform(levels_of(shape, each), 2, -4, 4, wide(dtype));
          const std::optional<Tensor> eps =
              noisy ? std::optional<Tensor>(uniform(shape, 4, -2, 2, dtype)) : std::nullopt;
          const auto found =
              testing::under_all_schedules([&] { return diffuse_kernels(clean, level, eps, grad); });
          const Tensor x = leaf(clean), lam = leaf(level);
          const Tensor z = diffuse_reference(x, lam, eps ? std::optional<Tensor>(eps->to(at::kDouble)) : eps);
          z.backward(grad.to(at::kDouble));
          const double bound = testing::tolerance(dtype);
          EXPECT_EQ(found[0].scalar_type(), dtype);
          EXPECT_EQ(found[2].scalar_type(), wide(dtype));
          EXPECT_LT(relative_difference(found[0], z), bound) << clean.sizes() << dtype << each << noisy;
          EXPECT_LT(relative_difference(found[1], x.grad()), bound)
              << clean.sizes() << dtype << each << noisy;
          EXPECT_LT(relative_difference(found[2], lam.grad()), bound)
              << clean.sizes() << dtype << each << noisy;
        }
}

struct Update {
  Tensor z, predicted, level, grad_clean, grad_next;
  std::optional<Tensor> next_level;
  bool velocity;
};

Update update_of(const std::vector<int64_t>& shape, at::ScalarType dtype, bool each, bool last,
                 bool velocity) {
  const auto levels = levels_of(shape, each);
  return {.z = uniform(shape, 1, -2, 2, dtype),
          .predicted = uniform(shape, 2, -2, 2, dtype),
          .level = uniform(levels, 3, -3, 3, wide(dtype)),
          .grad_clean = uniform(shape, 4, -1, 1, dtype),
          .grad_next = last ? Tensor() : uniform(shape, 5, -1, 1, dtype),
          .next_level = last ? std::nullopt : std::optional<Tensor>(uniform(levels, 6, -1, 6, wide(dtype))),
          .velocity = velocity};
}

/// clean, next, and the gradients of z, prediction, level and next level (empty where there is none).
std::vector<Tensor> ddim_kernels(const Update& u) {
  const auto [clean, next] = cuda::ddim_update(u.z, u.predicted, u.level, u.next_level, u.velocity);
  const auto [z, predicted, level, next_level] = cuda::ddim_update_backward(
      u.grad_clean, u.next_level ? std::optional<Tensor>(u.grad_next) : std::nullopt, u.z, u.predicted,
      u.level, u.next_level, u.velocity);
  const Tensor none = at::zeros({0});
  return {clean, next.defined() ? next : none, z, predicted, level, next_level.defined() ? next_level : none};
}

std::vector<Tensor> ddim_by_autograd(const Update& u) {
  const Tensor z = leaf(u.z), predicted = leaf(u.predicted), level = leaf(u.level), none = at::zeros({0});
  std::optional<Tensor> next_level;
  if (u.next_level) next_level = leaf(*u.next_level);
  const auto [clean, next] = ddim_update_reference(z, predicted, level, next_level, u.velocity);
  Tensor value = (clean * u.grad_clean).sum();
  if (next_level) value = value + (next * u.grad_next).sum();
  value.backward();
  return {clean,
          next_level ? next : none,
          zero_if_none(z.grad(), z),
          zero_if_none(predicted.grad(), predicted),
          zero_if_none(level.grad(), level),
          next_level ? next_level->grad() : none};
}

TEST(DdimKernel, EqualsTheReferenceWithItsGradients) {
  for (const auto& shape : kShapes)
    for (const at::ScalarType dtype : kTypes)
      for (const bool each : {false, true})
        for (const bool last : {false, true})
          for (const bool velocity : {true, false}) {
            const Update u = update_of(shape, dtype, each, last, velocity);
            const auto found = testing::under_all_schedules([&] { return ddim_kernels(u); });
            const auto expected = ddim_by_autograd(u);
            EXPECT_EQ(found[0].scalar_type(), dtype);
            for (size_t i = 0; i < found.size(); ++i) {
              const Tensor wanted = expected[i].detach();
              if (wanted.numel() > 0 && wanted.abs().max().item<double>() == 0)
                EXPECT_EQ(found[i].abs().max().item<double>(), 0) << i;
              else
                EXPECT_LT(relative_difference(found[i], wanted), testing::tolerance(dtype))
                    << "result " << i << u.z.sizes() << dtype << each << last << velocity;
            }
          }
}

TEST(DdimKernel, GradientsEqualFiniteDifferences) {
  for (const bool velocity : {true, false})
    for (const bool each : {false, true}) {
      const Update u = update_of({2, 5}, at::kDouble, each, /*last=*/false, velocity);
      const auto value = [&](const Update& at) {
        const auto [clean, next] = cuda::ddim_update(at.z, at.predicted, at.level, at.next_level, velocity);
        return weighted_sum(clean, u.grad_clean) + weighted_sum(next, u.grad_next);
      };
      const auto along = [&](Tensor Update::*member) {
        return numeric_gradient(
            [&](const Tensor& x) {
              Update moved = u;
              moved.*member = x;
              return value(moved);
            },
            u.*member);
      };
      const auto found = ddim_kernels(u);
      EXPECT_LT(relative_difference(found[2], along(&Update::z)) * (velocity ? 1 : 0.1), 1e-7);
      EXPECT_LT(relative_difference(found[3], along(&Update::predicted)), 1e-7);
      EXPECT_LT(relative_difference(found[4], along(&Update::level)), 1e-7);
      const Tensor by_next = numeric_gradient(
          [&](const Tensor& x) {
            Update moved = u;
            moved.next_level = x;
            return value(moved);
          },
          *u.next_level);
      EXPECT_LT(relative_difference(found[5], by_next), 1e-7);
    }
}

TEST(DiffuseKernel, GradientsEqualFiniteDifferences) {
  const Tensor clean = uniform({3, 4}, 1), level = uniform({3}, 2, -2, 2), eps = uniform({3, 4}, 3),
               grad = uniform({3, 4}, 4);
  const auto found = diffuse_kernels(clean, level, eps, grad);
  const auto value = [&](const Tensor& x, const Tensor& lam) {
    return weighted_sum(cuda::diffuse(x, lam, eps), grad);
  };
  EXPECT_LT(relative_difference(found[1],
                                numeric_gradient([&](const Tensor& x) { return value(x, level); }, clean)),
            1e-8);
  EXPECT_LT(relative_difference(
                found[2], numeric_gradient([&](const Tensor& lam) { return value(clean, lam); }, level)),
            1e-8);
}

/// The closed forms on the CPU are what autograd makes of the expressions.
TEST(DiffusionStep, TheOperatorsOfTheCpuDifferentiateAlike) {
  for (const bool last : {false, true})
    for (const bool velocity : {true, false}) {
      const Update u = update_of({3, 4, 6}, at::kDouble, /*each=*/false, last, velocity);
      const auto expected = ddim_by_autograd(u);
      const Tensor z = leaf(u.z), predicted = leaf(u.predicted), level = leaf(u.level);
      std::optional<Tensor> next_level;
      if (u.next_level) next_level = leaf(*u.next_level);
      const auto [clean, next] = ddim_update_by_kernel(z, predicted, level, next_level, velocity);
      EXPECT_EQ(next.defined(), !last);
      Tensor value = (clean * u.grad_clean).sum();
      if (next_level) value = value + (next * u.grad_next).sum();
      value.backward();
      EXPECT_LT(relative_difference(clean, expected[0]), 1e-13);
      EXPECT_LT((z.grad() - expected[2]).abs().max().item<double>(), 1e-12);
      EXPECT_LT((predicted.grad() - expected[3]).abs().max().item<double>(), 1e-12);
      EXPECT_LT((level.grad() - expected[4]).abs().max().item<double>(), 1e-12);
      if (next_level) {
        EXPECT_LT(relative_difference(next_level->grad(), expected[5]), 1e-12);
      }
    }
  const Tensor clean = leaf(uniform({3, 6}, 1)), level = leaf(uniform({3}, 2)),
               eps = leaf(uniform({3, 6}, 3)), grad = uniform({3, 6}, 4);
  const auto gradients = [&](const Tensor& z) {
    return torch::autograd::grad({z}, {clean, level, eps}, {grad});
  };
  const auto found = gradients(diffuse_by_kernel(clean, level, eps)),
             expected = gradients(diffuse_reference(clean, level, eps));
  for (size_t i = 0; i < found.size(); ++i) EXPECT_LT(relative_difference(found[i], expected[i]), 1e-12) << i;
}

/// At the clean end the root of 1 - abar has no finite derivative; the kernels' gradients stay finite all the
/// same, in the last step and where a level is the very end of the scale.
TEST(DiffusionStep, TheEndsOfTheScaleGiveNoNan) {
  for (const at::ScalarType dtype : kTypes)
    for (const bool velocity : {true, false}) {
      Update u = update_of({4, 24}, dtype, /*each=*/false, /*last=*/false, velocity);
      u.level = at::tensor({20.0, -20.0, 19.0, 0.0}, wide(dtype));
      u.next_level = at::tensor({kInfinity, -kInfinity, 20.0, kInfinity}, wide(dtype));
      const auto found = ddim_kernels(u);
      for (size_t i = 0; i < found.size(); ++i)
        EXPECT_TRUE(found[i].isfinite().all().item<bool>()) << i << dtype;
      EXPECT_EQ(found[5][0].item<double>(), 0);
      const auto last =
          cuda::ddim_update_backward(u.grad_clean, std::nullopt, u.z, u.predicted,
                                     at::full({4}, kInfinity, wide(dtype)), std::nullopt, velocity);
      EXPECT_TRUE(std::get<0>(last).isfinite().all().item<bool>());
      EXPECT_EQ(std::get<2>(last).abs().max().item<double>(), 0);
      // With epshat divided by the least amplitude, as the expressions have it at +-20.
      const Update bounded = [&] {
        Update copy = u;
        copy.next_level = at::tensor({20.0, -20.0, 5.0, 1.0}, wide(dtype));
        return copy;
      }();
      const auto held = ddim_kernels(bounded), expected = ddim_by_autograd(bounded);
      for (const size_t i : {size_t{1}, size_t{2}, size_t{4}})
        EXPECT_LT(relative_difference(held[i], expected[i]), std::max(testing::tolerance(dtype), 1e-9))
            << i << dtype;
    }
  // Autograd of the expressions alone fails there: why the last step asks for no next level.
  const Update plain = update_of({1, 3}, at::kDouble, false, true, true);
  const Tensor end = at::full({1}, kInfinity, at::kDouble).requires_grad_();
  std::get<0>(ddim_update_reference(plain.z, plain.predicted, end, std::nullopt, true)).sum().backward();
  EXPECT_TRUE(end.grad().isnan().all().item<bool>());
}

TEST(DiffusionStep, AbsentGradientsAreZero) {
  Update u = update_of({3, 9}, at::kDouble, false, false, true);
  const auto [z, predicted, level, next_level] = cuda::ddim_update_backward(
      std::nullopt, u.grad_next, u.z, u.predicted, u.level, u.next_level, u.velocity);
  u.grad_clean = at::zeros_like(u.grad_clean);
  const auto expected = ddim_kernels(u);
  EXPECT_TRUE(at::equal(z, expected[2]) && at::equal(predicted, expected[3]) &&
              at::equal(level, expected[4]) && at::equal(next_level, expected[5]));
  const auto without = cuda::ddim_update_backward(u.grad_clean, std::nullopt, u.z, u.predicted, u.level,
                                                  u.next_level, u.velocity);
  EXPECT_EQ(std::get<0>(without).abs().max().item<double>(), 0);
  EXPECT_EQ(std::get<3>(without).abs().max().item<double>(), 0);
}

TEST(DiffusionStep, EmptyStridedUnalignedAndMisfits) {
  for (const auto& shape : {std::vector<int64_t>{0, 8}, {2, 0, 8}, {3, 0}}) {
    const Update u = update_of(shape, at::kFloat, false, false, true);
    const auto found = ddim_kernels(u);
    EXPECT_EQ(found[0].sizes(), u.z.sizes());
    EXPECT_EQ(found[4].abs().sum().item<double>(), 0);
    EXPECT_EQ(cuda::diffuse(u.z, u.level, u.predicted).sizes(), u.z.sizes());
  }
  Update u = update_of({6, 8}, at::kFloat, true, false, true);
  const auto expected = ddim_kernels(u);
  const auto unaligned = [](const Tensor& x) {
    const Tensor room = at::empty({x.numel() + 1}, x.options());
    return room.slice(0, 1).view(x.sizes()).copy_(x);
  };
  for (Tensor Update::*member :
       {&Update::z, &Update::predicted, &Update::level, &Update::grad_clean, &Update::grad_next}) {
    Update strided = u, shifted = u;
    strided.*member = (u.*member).t().contiguous().t();
    shifted.*member = unaligned(u.*member);
    for (const Update& other : {strided, shifted}) {
      const auto found = ddim_kernels(other);
      for (size_t i = 0; i < found.size(); ++i)
        EXPECT_LT(relative_difference(found[i], expected[i]), 1e-6) << i;
    }
  }
  EXPECT_THROW(cuda::diffuse(u.z, at::zeros({5}), std::nullopt), c10::Error);
  EXPECT_THROW(cuda::diffuse(u.z, u.level, at::zeros({6, 7})), c10::Error);
  EXPECT_THROW(cuda::ddim_update(u.z, u.predicted, u.level, at::zeros({6}), true), c10::Error);
  EXPECT_THROW(
      cuda::ddim_update_backward(u.grad_clean, u.grad_next, u.z, u.predicted, u.level, std::nullopt, true),
      c10::Error);
}

}  // namespace
}  // namespace ctxc
