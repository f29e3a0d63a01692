// The kernels of the depth-wise gate and mix, run on the CPU, against the chunked ATen reference.
#include "kernel_testing.h"
#include "model/kernels/depth_mix.h"

namespace ctxc {
namespace {

using testing::numeric_gradient;
using testing::relative_difference;
using testing::uniform;
using testing::weighted_sum;

std::vector<Tensor> states(int64_t count, int64_t tokens, int64_t width, at::ScalarType dtype) {
  std::vector<Tensor> hidden;
  for (int64_t l = 0; l < count; ++l)
    hidden.push_back(uniform({tokens, width}, 100 + static_cast<uint64_t>(l), -1, 1, dtype));
  return hidden;
}

/// Mixed with own and with common weights, products, gate and mix, its backward with and without
/// grad_weights.
template <class Mix, class Products, class Gate, class Backward>
std::vector<Tensor> all_of(const std::vector<Tensor>& hidden, at::ScalarType wide, Mix mix, Products products,
                           Gate gate, Backward backward) {
  const int64_t tokens = hidden[0].size(0), width = hidden[0].size(1),
                count = static_cast<int64_t>(hidden.size());
  const Tensor pull = uniform({tokens, width}, 1, -1, 1, wide),
               offset = uniform({tokens, count}, 2, -1, 1, wide);
  std::vector<Tensor> out = {mix(offset, hidden), mix(uniform({1, count}, 3, -1, 1, wide), hidden),
                             products(pull, hidden)};
  const auto [weights, mixed] = gate(pull, offset, hidden, 0.7);
  const Tensor grad = uniform({tokens, width}, 4, -1, 1, wide);
  const auto [offset_alone, pull_alone] = backward(grad, std::nullopt, weights, hidden, 0.7);
  const auto [offset_both, pull_both] =
      backward(grad, uniform({tokens, count}, 5, -1, 1, wide), weights, hidden, 0.7);
  for (const Tensor& t : {weights, mixed, offset_alone, pull_alone, offset_both, pull_both}) out.push_back(t);
  return out;
}

std::vector<Tensor> by_kernel(const std::vector<Tensor>& hidden, at::ScalarType wide) {
  return all_of(hidden, wide, cuda::weighted_states, cuda::state_products, cuda::depth_gate_mix,
                cuda::depth_gate_mix_backward);
}

/// The CPU implementations, and the backward as autograd derives it from plain expressions.
std::vector<Tensor> by_reference(const std::vector<Tensor>& hidden, at::ScalarType wide) {
  const auto backward = [&](const Tensor& grad, const std::optional<Tensor>& grad_weights, const Tensor&,
                            const std::vector<Tensor>& states, double scale) {
    const int64_t tokens = grad.size(0), count = static_cast<int64_t>(states.size());
    const Tensor pull = uniform({tokens, grad.size(1)}, 1, -1, 1, wide).requires_grad_(),
                 offset = uniform({tokens, count}, 2, -1, 1, wide).requires_grad_();
    const Tensor stacked = at::stack(states, 1).to(wide);
    const Tensor weights = (((pull.unsqueeze(1) * stacked).sum(2) + offset) * scale).softmax(1);
    Tensor value = ((weights.unsqueeze(2) * stacked).sum(1) * grad).sum();
    if (grad_weights) value = value + (weights * *grad_weights).sum();
    value.backward();
    return std::tuple{offset.grad(), pull.grad()};
  };
  return all_of(hidden, wide, mix_states, multiply_states, gate_and_mix_states, backward);
}

TEST(DepthMixKernel, EqualsTheReferenceWithItsGradients) {
  struct Case {
    int64_t count, tokens, width;
  };
  for (const Case c : {Case{1, 1, 1}, Case{5, 4, 7}, Case{33, 5, 40}, Case{4, 3, 264}, Case{40, 2, 8}})
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
      const at::ScalarType wide = dtype == at::kDouble ? at::kDouble : at::kFloat;
      const std::vector<Tensor> hidden = states(c.count, c.tokens, c.width, dtype);
      const auto found = testing::under_all_schedules([&] { return by_kernel(hidden, wide); });
      const auto expected = by_reference(hidden, wide);
      ASSERT_EQ(found.size(), expected.size());
      for (size_t i = 0; i < found.size(); ++i) {
        EXPECT_EQ(found[i].scalar_type(), wide);
        // Sums are in the wide type whatever the states are.
        EXPECT_LT((found[i] - expected[i]).abs().max().item<double>(), wide == at::kDouble ? 1e-12 : 2e-5)
            << "result " << i << " of " << c.count << " states [" << c.tokens << ", " << c.width << "] in "
            << dtype;
      }
    }
}

TEST(DepthMixKernel, GradientEqualsFiniteDifferences) {
  const std::vector<Tensor> hidden = states(4, 2, 5, at::kDouble);
  const Tensor pull = uniform({2, 5}, 1), offset = uniform({2, 4}, 2), by_mixed = uniform({2, 5}, 3),
               by_weights = uniform({2, 4}, 4);
  const auto value = [&](const Tensor& p, const Tensor& o) {
    const auto [weights, mixed] = cuda::depth_gate_mix(p, o, hidden, 1.3);
    return weighted_sum(weights, by_weights) + weighted_sum(mixed, by_mixed);
  };
  const Tensor weights = std::get<0>(cuda::depth_gate_mix(pull, offset, hidden, 1.3));
  const auto [grad_offset, grad_pull] =
      cuda::depth_gate_mix_backward(by_mixed, by_weights, weights, hidden, 1.3);
  EXPECT_LT(relative_difference(grad_pull,
                                numeric_gradient([&](const Tensor& p) { return value(p, offset); }, pull)),
            1e-8);
  EXPECT_LT(relative_difference(grad_offset,
                                numeric_gradient([&](const Tensor& o) { return value(pull, o); }, offset)),
            1e-8);
}

TEST(DepthMixKernel, UnalignedAndStridedStates) {
  // Views that begin in the middle of 16 bytes must not be read in packs; strided ones are copied.
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    std::vector<Tensor> aligned = states(3, 4, 16, dtype), shifted, strided;
    for (const Tensor& state : aligned) {
      Tensor storage = at::zeros({4 * 16 + 1}, state.options());
      storage.slice(0, 1).copy_(state.flatten());
      shifted.push_back(storage.slice(0, 1).view({4, 16}));
      strided.push_back(state.t().contiguous().t());
    }
    ASSERT_NE(reinterpret_cast<uintptr_t>(shifted[0].const_data_ptr()) % 16, 0u);
    const auto expected = by_kernel(aligned, at::kFloat), by_view = by_kernel(shifted, at::kFloat),
               by_copy = by_kernel(strided, at::kFloat);
    for (size_t i = 0; i < expected.size(); ++i) {
      EXPECT_LT(relative_difference(by_view[i], expected[i]), 1e-5) << "result " << i;
      EXPECT_EQ(relative_difference(by_copy[i], expected[i]), 0) << "result " << i;
    }
  }
}

TEST(DepthMixKernel, EmptyBatchesAndMisfits) {
  const auto found = by_kernel(states(3, 0, 8, at::kFloat), at::kFloat);
  for (const Tensor& result : found) EXPECT_EQ(result.size(0), 0);
  std::vector<Tensor> hidden = states(3, 2, 8, at::kFloat);
  EXPECT_THROW(cuda::state_products(at::zeros({3, 8}), hidden), c10::Error);
  EXPECT_THROW(cuda::weighted_states(at::zeros({2, 4}), hidden), c10::Error);
  hidden[1] = hidden[1].to(at::kBFloat16);
  EXPECT_THROW(cuda::state_products(at::zeros({2, 8}), hidden), c10::Error);
  EXPECT_THROW(cuda::state_products(at::zeros({2, 8}), at::TensorList()), c10::Error);
}

}  // namespace
}  // namespace ctxc
