// The fused layer against ATen's expressions, and against the layer taken apart.
#include "model/narrow_layer.h"

#include <gtest/gtest.h>

#include "model/backbone.h"
#include "model/lora_parameters.h"
#include "tiny_llama.h"

namespace ctxc {
namespace {

using testing::random_tensor;
using testing::relative_error;

#define CTXC_NEEDS_BFLOAT16()     \
  if (!cpu_multiplies_bfloat16()) \
  GTEST_SKIP() << "this CPU has no bfloat16 products (AVX512-BF16 or AMX), and the loops would not run here"

Tensor narrow(std::vector<int64_t> shape, uint64_t seed, double scale = 1) {
  return (random_tensor(shape, seed) * scale).to(at::kBFloat16);
}

/// Widths that do and do not fill a vector register.
constexpr int64_t kWidths[] = {8, 48, 576};

TEST(NarrowLayer, NormedProductsAreTheNormAndItsProducts) {
  CTXC_NEEDS_BFLOAT16();
  for (const int64_t width : kWidths)
    for (const bool three : {true, false}) {
      const Tensor norm = random_tensor({width}, 2) + 1;
      const std::array<Tensor, 3> weights = {narrow({24, width}, 3, 0.2), narrow({16, width}, 4, 0.2),
                                             three ? narrow({8, width}, 5, 0.2) : Tensor()};
      std::array<Tensor, 2> found, grad;
      for (const bool fused : {false, true}) {
        const Tensor x = (random_tensor({5, width}, 1) * 3).requires_grad_();
        std::array<Tensor, 3> products;
        if (fused) {
          products = normed_products(x, norm, 1e-5, weights);
        } else {
          const Tensor normed = rms_norm(x, norm, 1e-5).to(at::kBFloat16).to(at::kFloat);
          for (size_t i = 0; i < 3; ++i)
            if (weights[i].defined()) products[i] = at::linear(normed, weights[i].to(at::kFloat));
        }
        Tensor sum = at::zeros({});
        for (size_t i = 0; i < 3; ++i)
          if (products[i].defined())
            sum = sum + (products[i].to(at::kFloat) * random_tensor(products[i].sizes().vec(), 10 + i)).sum();
        sum.backward();
        found[fused] = at::cat({products[0].detach(), products[1].detach()}, 1).to(at::kFloat);
        grad[fused] = x.grad();
      }
      EXPECT_LT(relative_error(found[1], found[0]), 1e-2) << width;
      EXPECT_LT(relative_error(grad[1], grad[0]), 2e-2) << width;
    }
}

TEST(NarrowLayer, RopeTurnsAndItsGradientTurnsBack) {
  CTXC_NEEDS_BFLOAT16();
  for (const int64_t width : {8, 64}) {
    const Tensor angle = random_tensor({7, 1, width / 2}, 1) * 3;
    const RopeTable table{angle.cos(), angle.sin()};
    const Tensor x = narrow({7, 3, width}, 2).requires_grad_(), pull = narrow({7, 3, width}, 3);
    const Tensor y = narrow_rope(x, table);
    EXPECT_TRUE(at::equal(y, apply_rope(x.detach().to(at::kFloat), table).to(at::kBFloat16)) ||
                relative_error(y, apply_rope(x.detach().to(at::kFloat), table)) < 4e-3);
    y.backward(pull);
    const Tensor back = apply_rope(pull.to(at::kFloat), {table.cos, -table.sin});
    EXPECT_LT(relative_error(x.grad(), back), 4e-3);
  }
}

TEST(NarrowLayer, SwigluGoesToZeroAndToItsInputAtTheEnds) {
  CTXC_NEEDS_BFLOAT16();
  // Gates from -200 to 200: e^x over all its range, with no NaN and no overflow.
  const Tensor gate = at::linspace(-200, 200, 801).view({1, -1}).to(at::kBFloat16).requires_grad_();
  const Tensor up = at::full_like(gate, 2.0).detach().requires_grad_();
  const Tensor weight = at::eye(801, at::kBFloat16), zero = at::zeros({1, 801});
  const Tensor y = swiglu_product_onto(zero, gate, up, weight);
  const Tensor wide = gate.detach().to(at::kFloat).requires_grad_();
  const Tensor wide_up = up.detach().to(at::kFloat).requires_grad_();
  const Tensor expected = swiglu(wide, wide_up);
  EXPECT_LT((y - expected).abs().max().item<double>(), 1);  // half a unit in the last place of 400
  EXPECT_LT(relative_error(y, expected), 4e-3);
  y.sum().backward();
  expected.sum().backward();
  EXPECT_LT(relative_error(gate.grad(), wide.grad()), 8e-3);
  EXPECT_LT(relative_error(up.grad(), wide_up.grad()), 8e-3);
}

TEST(NarrowLayer, ProductOntoAddsToTheStream) {
  CTXC_NEEDS_BFLOAT16();
  const Tensor x = random_tensor({5, 48}, 1).requires_grad_(), a = narrow({5, 16}, 2).requires_grad_();
  const Tensor weight = narrow({48, 16}, 3);
  const Tensor y = product_onto(x, a, weight);
  EXPECT_EQ(y.scalar_type(), at::kFloat);
  EXPECT_LT(relative_error(y, x.detach() + at::linear(a.detach(), weight).to(at::kFloat)), 1e-6);
  y.backward(random_tensor({5, 48}, 4));
  EXPECT_TRUE(at::equal(x.grad(), random_tensor({5, 48}, 4)));
  EXPECT_LT(relative_error(a.grad(), at::mm(random_tensor({5, 48}, 4).to(at::kBFloat16), weight)), 1e-2);
}

TEST(NarrowLayer, ForwardAndGradientsAreThoseOfTheLayerTakenApart) {
  CTXC_NEEDS_BFLOAT16();
  const auto backbone = Backbone::random(testing::tiny_llama(), 3, {.dtype = "bfloat16"});
  const int64_t width = backbone->config().hidden_size;
  std::array<Tensor, 2> hidden, grad;
  for (const bool apart : {false, true}) {
    PackedRows rows;
    rows.embeds_PD = random_tensor({20, width}, 1).requires_grad_();
    rows.positions_P = at::cat({at::arange(12), at::arange(8)});
    rows.segments = {{.length = 12}, {.length = 8}};
    // Keeping keys and values is what takes a layer apart.
    const ForwardResult result = backbone->forward(rows, {.keep_kv = apart});
    hidden[apart] = result.hidden[0].detach();
    (result.hidden[0] * random_tensor({20, width}, 2)).sum().backward();
    grad[apart] = rows.embeds_PD.grad();
  }
  EXPECT_LT(relative_error(hidden[0], hidden[1]), 5e-3);
  EXPECT_LT(relative_error(grad[0], grad[1]), 1e-2);
  EXPECT_GT(relative_error(hidden[0], hidden[1] * 1.05), 2e-2);  // the bound can fail
}

TEST(NarrowLayer, AdaptersActAsInFloat32) {
  CTXC_NEEDS_BFLOAT16();
  const LlamaConfig llama = testing::tiny_llama();
  LoraConfig config{.rank = 4, .alpha = 8, .dropout = 0, .targets = {}};
  for (int p = 0; p < kProjections; ++p) config.targets.emplace_back(name_of(static_cast<Projection>(p)));
  LoraParameters lora(config, llama, 3, at::kCPU);
  {
    const at::NoGradGuard no_grad;
    for (const auto& [name, tensor] : lora.tensors())
      if (name.ends_with("lora_B")) Tensor(tensor).copy_(random_tensor(tensor.sizes().vec(), 7) * 0.2);
  }
  const Adapters adapters = lora.adapters();
  std::array<Tensor, 2> hidden, key, grad, plain;
  std::array<std::vector<Tensor>, 2> of_lora;
  for (const bool fused : {false, true}) {
    const auto backbone = Backbone::random(llama, 3, {.dtype = fused ? "bfloat16" : "float32"});
    PackedRows rows;
    rows.embeds_PD = random_tensor({20, llama.hidden_size}, 1).requires_grad_();
    rows.positions_P = at::cat({at::arange(12), at::arange(8)});
    rows.segments = {{.length = 12}, {.length = 8}};
    plain[fused] = backbone->forward(rows).hidden[0].detach();
    const ForwardResult result = backbone->forward(rows, {.keep_kv = true, .adapters = &adapters});
    hidden[fused] = result.hidden[0].detach();
    key[fused] = result.kv.back().key_BGKE.detach();
    for (const auto& [name, tensor] : lora.tensors()) Tensor(tensor).mutable_grad() = Tensor();
    (result.hidden[0] * random_tensor({20, llama.hidden_size}, 2)).sum().backward();
    grad[fused] = rows.embeds_PD.grad();
    for (const auto& [name, tensor] : lora.tensors()) of_lora[fused].push_back(tensor.grad().clone());
  }
  EXPECT_LT(relative_error(hidden[1], hidden[0]), 4e-2);
  EXPECT_LT(relative_error(key[1], key[0]), 4e-2);
  EXPECT_LT(relative_error(grad[1], grad[0]), 8e-2);
  for (size_t i = 0; i < of_lora[0].size(); ++i)
    EXPECT_LT(relative_error(of_lora[1][i], of_lora[0][i]), 0.12) << lora.tensors()[i].first;
  EXPECT_GT(relative_error(hidden[0], plain[0]), 0.3);  // without the adapters the bounds would fail
}

}  // namespace
}  // namespace ctxc
