// RMSNorm and RoPE, run on the CPU, against the ATen expressions and their autograd.
#include "kernel_testing.h"
#include "model/kernels/norm_rope.h"

namespace ctxc {
namespace {

using testing::numeric_gradient;
using testing::relative_difference;
using testing::uniform;
using testing::weighted_sum;

std::vector<Tensor> norm_kernel(const Tensor& x, const Tensor& weight, const Tensor& grad) {
  const auto [y, inverse] = cuda::rms_norm_forward(x, weight, 1e-5);
  return {y, cuda::rms_norm_backward(grad, x, weight, inverse)};
}

TEST(NormKernel, EqualsTheReferenceWithItsGradient) {
  for (const auto& shape : {std::vector<int64_t>{1, 2}, {3, 7}, {2, 3, 64}, {2, 2056}, {3, 2051}})
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16})
      for (const at::ScalarType weight_dtype :
           {dtype, dtype == at::kDouble ? at::kDouble : at::kFloat, at::kBFloat16}) {
        const Tensor x = uniform(shape, 1, -3, 3, dtype),
                     weight = uniform({shape.back()}, 2, 0.5, 2, weight_dtype),
                     grad = uniform(shape, 3, -1, 1, dtype);
        const auto found = testing::under_all_schedules([&] { return norm_kernel(x, weight, grad); });
        const Tensor wide_x = x.to(at::kDouble).requires_grad_();
        const Tensor y = rms_norm_reference(wide_x, weight.to(at::kDouble), 1e-5);
        (y * grad.to(at::kDouble)).sum().backward();
        EXPECT_EQ(found[0].scalar_type(), dtype);
        EXPECT_LT(relative_difference(found[0], y), testing::tolerance(dtype))
            << shape.back() << dtype << weight_dtype;
        EXPECT_LT(relative_difference(found[1], wide_x.grad()), testing::tolerance(dtype))
            << shape.back() << dtype << weight_dtype;
      }
}

TEST(NormKernel, GradientEqualsFiniteDifferences) {
  const Tensor x = uniform({2, 6}, 1), weight = uniform({6}, 2), grad = uniform({2, 6}, 3);
  const Tensor numeric = numeric_gradient(
      [&](const Tensor& at) {
        return weighted_sum(std::get<0>(cuda::rms_norm_forward(at, weight, 1e-5)), grad);
      },
      x);
  EXPECT_LT(relative_difference(norm_kernel(x, weight, grad)[1], numeric), 1e-7);
}

TEST(NormKernel, EmptyAndStrided) {
  const auto [y, inverse] = cuda::rms_norm_forward(at::zeros({0, 8}), at::ones({8}), 1e-5);
  EXPECT_EQ(y.sizes(), (std::vector<int64_t>{0, 8}));
  EXPECT_EQ(inverse.numel(), 0);
  const Tensor x = uniform({8, 4}, 1, -1, 1, at::kFloat), weight = at::ones({8});
  EXPECT_TRUE(at::equal(std::get<0>(cuda::rms_norm_forward(x.t(), weight, 1e-5)),
                        std::get<0>(cuda::rms_norm_forward(x.t().contiguous(), weight, 1e-5))));
  EXPECT_THROW(cuda::rms_norm_forward(x, weight, 1e-5), c10::Error);
}

struct Heads {
  Tensor q, k, cos, sin;
};

Heads heads(int64_t tokens, int64_t q_heads, int64_t k_heads, int64_t width, at::ScalarType dtype) {
  const Tensor angle = uniform({tokens, 1, width / 2}, 9, 0, 6);
  return {uniform({tokens, q_heads, width}, 1, -1, 1, dtype),
          uniform({tokens, k_heads, width}, 2, -1, 1, dtype), angle.cos().to(dtype), angle.sin().to(dtype)};
}

TEST(RopeKernel, EqualsTheReferenceAndTurnsBack) {
  struct Case {
    int64_t tokens, q_heads, k_heads, width;
  };
  for (const Case c :
       {Case{5, 6, 2, 8}, Case{2, 4, 4, 64}, Case{3, 1, 1, 2}, Case{2, 3, 1, 10}, Case{1, 32, 8, 128}})
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
      const Heads h = heads(c.tokens, c.q_heads, c.k_heads, c.width, dtype);
      const auto found = testing::under_all_schedules([&] {
        auto [q, k] = cuda::rope_qk(h.q, h.k, h.cos, h.sin, 1);
        return std::vector<Tensor>{q, k};
      });
      const Tensor cos = h.cos.to(at::kDouble), sin = h.sin.to(at::kDouble);
      EXPECT_LT(relative_difference(found[0], rope_reference(h.q.to(at::kDouble), cos, sin)),
                testing::tolerance(dtype));
      EXPECT_LT(relative_difference(found[1], rope_reference(h.k.to(at::kDouble), cos, sin)),
                testing::tolerance(dtype));
      const auto [q, k] = cuda::rope_qk(found[0], found[1], h.cos, h.sin, -1);
      if (dtype == at::kBFloat16) continue;  // rounded tables are no rotation
      EXPECT_LT(relative_difference(q, h.q), testing::tolerance(dtype));
      EXPECT_LT(relative_difference(k, h.k), testing::tolerance(dtype));
    }
}

TEST(RopeKernel, BackwardIsTheTransposedRotation) {
  const Heads h = heads(3, 2, 1, 6, at::kDouble);
  const Tensor by_q = uniform({3, 2, 6}, 11), by_k = uniform({3, 1, 6}, 12);
  const auto value = [&](const Tensor& q, const Tensor& k) {
    const auto [turned_q, turned_k] = cuda::rope_qk(q, k, h.cos, h.sin, 1);
    return weighted_sum(turned_q, by_q) + weighted_sum(turned_k, by_k);
  };
  const auto [grad_q, grad_k] = cuda::rope_qk(by_q, by_k, h.cos, h.sin, -1);
  EXPECT_LT(
      relative_difference(grad_q, numeric_gradient([&](const Tensor& q) { return value(q, h.k); }, h.q)),
      1e-8);
  EXPECT_LT(
      relative_difference(grad_k, numeric_gradient([&](const Tensor& k) { return value(h.q, k); }, h.k)),
      1e-8);
}

TEST(RopeKernel, NoTokensAndMisfits) {
  const Heads none = heads(0, 6, 2, 8, at::kFloat), h = heads(3, 6, 2, 8, at::kFloat);
  EXPECT_EQ(std::get<0>(cuda::rope_qk(none.q, none.k, none.cos, none.sin, 1)).numel(), 0);
  EXPECT_THROW(cuda::rope_qk(h.q, none.k, h.cos, h.sin, 1), c10::Error);
  EXPECT_THROW(cuda::rope_qk(h.q, h.k, none.cos, h.sin, 1), c10::Error);
}

}  // namespace
}  // namespace ctxc
