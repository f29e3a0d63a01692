#include "train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "throws.h"

namespace ctxc {
namespace {

Tensor leaf(std::vector<double> values, std::vector<int64_t> shape) {
  return at::tensor(values, at::kFloat).view(shape).clone().requires_grad_(true);
}

/// One number of AdamW, written down from its definition.
struct Reference {
  double value, m = 0, v = 0;
  int64_t t = 0;
  void step(double g, double lr, const AdamWOptions& o, double decay) {
    ++t;
    value *= 1 - lr * decay;
    m = o.beta1 * m + (1 - o.beta1) * g;
    v = o.beta2 * v + (1 - o.beta2) * g * g;
    const double m_hat = m / (1 - std::pow(o.beta1, t)), v_hat = v / (1 - std::pow(o.beta2, t));
    value -= lr * m_hat / (std::sqrt(v_hat) + o.eps);
  }
};

TEST(AdamW, FollowsItsDefinitionAndDecaysMatricesAlone) {
  const AdamWOptions options{.beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.1};
  Tensor matrix = leaf({1, -2, 0.5, 3}, {2, 2}), vector = leaf({1, -1}, {2});
  AdamW optimizer({{"matrix", matrix}, {"vector", vector}}, options);
  std::vector<Reference> expected = {{1}, {-2}, {0.5}, {3}, {1}, {-1}};
  for (int64_t step = 0; step < 3; ++step) {
    optimizer.zero_grad();
    const double lr = 0.01 * static_cast<double>(step + 1);
    ((matrix * matrix).sum() + vector.exp().sum() * 0.3).backward();
    for (int i = 0; i < 4; ++i) expected[i].step(2 * expected[i].value, lr, options, 0.1);
    for (int i = 4; i < 6; ++i) expected[i].step(0.3 * std::exp(expected[i].value), lr, options, 0);
    optimizer.step(lr);
  }
  for (int i = 0; i < 4; ++i) EXPECT_NEAR(matrix.flatten()[i].item<double>(), expected[i].value, 1e-6);
  for (int i = 4; i < 6; ++i) EXPECT_NEAR(vector[i - 4].item<double>(), expected[i].value, 1e-6);
}

TEST(AdamW, LeavesNamedMatricesUndecayed) {
  const AdamWOptions options{.weight_decay = 0.1, .undecayed = {"state"}};
  Tensor matrix = leaf({1}, {1, 1}), state = leaf({1}, {1, 1});
  AdamW optimizer({{"matrix", matrix}, {"state", state}}, options);
  Reference decayed{1}, left{1};
  (matrix + state).sum().backward();
  optimizer.step(0.01);
  decayed.step(1, 0.01, options, 0.1);
  left.step(1, 0.01, options, 0);
  EXPECT_NEAR(matrix.item<double>(), decayed.value, 1e-7);
  EXPECT_NEAR(state.item<double>(), left.value, 1e-7);
  testing::expect_error(ErrorKind::kInternal, "undecayed: state", [&] {
    AdamW({{"matrix", matrix}}, options);
  });
}

TEST(AdamW, LeavesWhatHasNoGradient) {
  Tensor used = leaf({1}, {1}), idle = leaf({2}, {1});
  AdamW optimizer({{"used", used}, {"idle", idle}}, {});
  (used * 3).sum().backward();
  optimizer.step(0.1);
  EXPECT_NEAR(used.item<double>(), 0.9, 1e-5);
  EXPECT_EQ(idle.item<double>(), 2);
}

TEST(AdamW, GoesOnFromSavedState) {
  Tensor a = leaf({1, 2}, {2}), b = leaf({1, 2}, {2});
  AdamW first({{"x", a}}, {}), second({{"x", b}}, {});
  (a * a).sum().backward();
  first.step(0.1);
  std::map<std::string, Tensor> state;
  for (const auto& [name, tensor] : first.state()) state[name] = tensor.clone();
  second.load_state(state, "saved");
  copy_into(second.parameters(), {{"x", a.detach()}}, "saved");
  for (Tensor* x : {&a, &b}) {
    x->mutable_grad().reset();
    (*x * *x).sum().backward();
  }
  first.step(0.05);
  second.step(0.05);
  EXPECT_TRUE(at::equal(a, b));
}

TEST(AdamW, NamesEveryDifferenceOfASavedState) {
  Tensor a = leaf({1, 2}, {2});
  AdamW optimizer({{"x", a}}, {});
  try {
    optimizer.load_state({{"x.exp_avg", at::zeros({3})}, {"x.step", at::zeros({})}, {"y", at::zeros({1})}},
                         "file");
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    const std::string text = error.what();
    EXPECT_NE(text.find("missing x.exp_avg_sq [2]"), std::string::npos) << text;
    EXPECT_NE(text.find("x.exp_avg: shape (found [3], expected [2])"), std::string::npos) << text;
    EXPECT_NE(text.find("unexpected y [1]"), std::string::npos) << text;
  }
}

TEST(Gradients, AreClippedToAGlobalNorm) {
  Tensor a = leaf({0, 0}, {2}), b = leaf({0}, {1});
  const NamedTensors parameters = {{"a", a}, {"b", b}};
  EXPECT_EQ(gradient_norm(parameters), 0);
  (a * at::tensor({3.0, 0.0}, at::kFloat)).sum().backward();
  (b * 4).sum().backward();
  EXPECT_NEAR(gradient_norm(parameters), 5, 1e-6);
  clip_gradients(parameters, 5, 10);
  EXPECT_NEAR(gradient_norm(parameters), 5, 1e-6);
  clip_gradients(parameters, 5, 1);
  EXPECT_NEAR(gradient_norm(parameters), 1, 1e-5);
}

TEST(Gradients, NonFiniteOnesAreNamed) {
  Tensor good = leaf({1}, {1}), bad = leaf({0}, {1});
  (good * 2 + bad.sqrt()).sum().backward();
  const NamedTensors parameters = {{"good", good}, {"bad", bad}};
  EXPECT_FALSE(std::isfinite(gradient_norm(parameters)));
  EXPECT_EQ(non_finite_gradients(parameters), std::vector<std::string>{"bad"});
}

}  // namespace
}  // namespace ctxc
