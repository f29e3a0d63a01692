// On a GPU: every operator, forward and through autograd, against the CPU's in double. Skipped where no GPU
// can be used.
#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "core/random.h"
#include "model/compressor.h"
#include "model/device.h"
#include "model/kernels/depth_mix.h"
#include "model/kernels/diffusion_step.h"
#include "model/kernels/norm_rope.h"
#include "model/kernels/sinkhorn.h"
#include "model/kernels/vocabulary_loss.h"
#include "model/loss.h"

namespace ctxc {
namespace {

/// The GPU, or nothing (with the reason, once).
std::optional<at::Device> gpu() {
  static const std::optional<at::Device> device = []() -> std::optional<at::Device> {
    try {
      return resolve_device("cuda");
    } catch (const Error& error) {
      fmt::print("CTXC_SKIP_WHOLE_TEST: {}\n", error.what());
      return std::nullopt;
    }
  }();
  return device;
}

#define NEEDS_GPU() \
  if (!gpu()) GTEST_SKIP() << "no usable GPU"

Tensor uniform(at::IntArrayRef shape, uint64_t index, double low = -1, double high = 1) {
  Tensor tensor = at::empty(shape, at::kDouble);
  CounterRng rng(17, "gpu_parity", 0, index);
  double* values = tensor.mutable_data_ptr<double>();
  for (int64_t i = 0; i < tensor.numel(); ++i) values[i] = low + (high - low) * rng.uniform();
  return tensor;
}

using Run = std::function<std::vector<Tensor>(const std::vector<Tensor>&)>;

/// Results and input gradients of `run` on a device in a type.
std::vector<Tensor> outcome(const std::vector<Tensor>& inputs, size_t differentiable, at::Device device,
                            at::ScalarType dtype, const Run& run) {
  std::vector<Tensor> placed;
  for (size_t i = 0; i < inputs.size(); ++i)
    placed.push_back(inputs[i].is_floating_point()
                         ? inputs[i].to(device, dtype).requires_grad_(i < differentiable)
                         : inputs[i].to(device));
  std::vector<Tensor> results = run(placed);
  Tensor value = at::zeros({}, at::TensorOptions().dtype(at::kDouble).device(device));
  for (size_t i = 0; i < results.size(); ++i)
    value = value + (results[i].to(at::kDouble) * uniform(results[i].sizes(), 90 + i).to(device)).sum();
  value.backward();
  for (size_t i = 0; i < differentiable; ++i) results.push_back(placed[i].grad());
  return results;
}

void compare(const char* name, const std::vector<Tensor>& inputs, size_t differentiable, const Run& run) {
  for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
    std::vector<Tensor> rounded;
    for (const Tensor& input : inputs)
      rounded.push_back(input.is_floating_point() ? input.to(dtype).to(at::kDouble) : input);
    const auto expected = outcome(rounded, differentiable, at::kCPU, at::kDouble, run),
               found = outcome(rounded, differentiable, *gpu(), dtype, run);
    const double bound = dtype == at::kDouble ? 1e-10 : dtype == at::kFloat ? 5e-5 : 2e-2;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double scale = std::max(expected[i].abs().max().item<double>(), 1e-12);
      EXPECT_LT(
          (found[i].to(at::kCPU, at::kDouble) - expected[i].to(at::kDouble)).abs().max().item<double>() /
              scale,
          bound)
          << name << " result " << i << " in " << dtype;
    }
  }
}

TEST(GpuParity, Sinkhorn) {
  NEEDS_GPU();
  for (const auto& [w, k] : {std::pair<int64_t, int64_t>{128, 32}, {33, 7}, {512, 128}}) {
    const Tensor a = uniform({5, w}, 2, 0.1, 1),
                 b = at::full({5, k}, 1.0 / static_cast<double>(k), at::kDouble);
    compare("sinkhorn", {uniform({5, w, k}, 1, 0, 2), a / a.sum(1, true), b}, 2,
            [](const std::vector<Tensor>& t) {
              return std::vector<Tensor>{transport_plan(t[0], t[1], t[2], 10, 0.1)};
            });
  }
}

TEST(GpuParity, DepthMix) {
  NEEDS_GPU();
  for (const auto& [tokens, width] : {std::pair<int64_t, int64_t>{300, 4096}, {3, 37}}) {
    std::vector<Tensor> inputs = {uniform({tokens, width}, 1, -0.1, 0.1), uniform({tokens, 9}, 2)};
    for (uint64_t l = 0; l < 9; ++l) inputs.push_back(uniform({tokens, width}, 10 + l));
    compare("depth", inputs, 2, [](const std::vector<Tensor>& t) {
      const at::ScalarType wide = t[0].scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
      const std::vector<Tensor> hidden(t.begin() + 2, t.end());
      const auto [weights, mixed] = gate_and_mix_states(t[0].to(wide), t[1].to(wide), hidden, 0.5);
      return std::vector<Tensor>{weights, mixed, mix_states(t[1].to(wide), hidden),
                                 multiply_states(t[0].to(wide), hidden)};
    });
  }
}

TEST(GpuParity, VocabularyLosses) {
  NEEDS_GPU();
  for (const int64_t vocabulary : {128256, 1001}) {
    const Tensor target = at::arange(40, at::kLong).mul_(7919).remainder_(vocabulary);
    compare("losses", {uniform({40, 64}, 1), uniform({vocabulary, 64}, 2), uniform({40, 64}, 3), target}, 2,
            [](const std::vector<Tensor>& t) {
              return std::vector<Tensor>{chunked_cross_entropy(t[0], t[1], t[3], 16),
                                         chunked_kl_divergence(t[0], t[1], t[2], t[1], 16)};
            });
  }
}

TEST(GpuParity, Divergences) {
  NEEDS_GPU();
  for (const int64_t vocabulary : {128256, 1001})
    for (const bool reverse : {false, true}) {
      const Tensor student = uniform({9, vocabulary}, 1, -6, 6), teacher = uniform({9, vocabulary}, 2, -6, 6);
      const Tensor block = student.clone(), there = student.to(*gpu(), at::kFloat);
      const Tensor expected = kl_rows_(block, teacher, 2.5, reverse, true),
                   found = kl_rows_(there, teacher.to(*gpu(), at::kFloat), 2.5, reverse, true);
      EXPECT_LT((found.to(at::kCPU, at::kDouble) - expected).abs().max().item<double>(), 1e-4) << vocabulary;
      EXPECT_LT((there.to(at::kCPU, at::kDouble) - block).abs().max().item<double>(), 1e-5) << vocabulary;
    }
}

TEST(GpuParity, NormAndRope) {
  NEEDS_GPU();
  for (const int64_t width : {4096, 37})
    compare("norm", {uniform({70, width}, 1), uniform({width}, 2)}, 2, [](const std::vector<Tensor>& t) {
      return std::vector<Tensor>{rms_norm_rows(t[0], t[1], 1e-5)};
    });
  const Tensor angle = uniform({50, 1, 64}, 3, 0, 6);
  compare("rope", {uniform({50, 32, 128}, 1), uniform({50, 8, 128}, 2), angle.cos(), angle.sin()}, 2,
          [](const std::vector<Tensor>& t) {
            const auto [q, k] = rope_qk(t[0], t[1], t[2], t[3]);
            return std::vector<Tensor>{q, k};
          });
}

TEST(GpuParity, DiffusionStep) {
  NEEDS_GPU();
  for (const bool each : {false, true})
    for (const Prediction kind : {Prediction::kVelocity, Prediction::kClean})
      for (const int64_t width : {512, 37}) {
        const std::vector<int64_t> shape = {3, 70, width}, levels = {3, 70, each ? width : 1};
        const auto level = [&](uint64_t index) {
          const Tensor values = uniform(levels, index, -3, 3);
          return each ? values : values.squeeze(-1);
        };
        compare("diffusion", {uniform(shape, 1), uniform(shape, 2), level(3), level(4), uniform(shape, 5)}, 4,
                [kind](const std::vector<Tensor>& t) {
                  const Tensor z = diffuse(t[0], t[2], t[4]);
                  const auto [clean, next] = ddim_update(z, t[1], t[2], t[3], kind);
                  return std::vector<Tensor>{z, clean, next,
                                             std::get<0>(ddim_update(next, t[1], t[3], {}, kind))};
                });
      }
}

TEST(GpuParity, ABackboneReadsAlike) {
  NEEDS_GPU();
  LlamaConfig config;
  config.vocab_size = 512;
  config.hidden_size = 256;
  config.num_layers = 4;
  config.num_heads = 8;
  config.num_kv_heads = 2;
  config.head_dim = 32;
  config.intermediate_size = 512;
  BackboneOptions options;
  const auto host = Backbone::random(config, 3, options);
  options.device = *gpu();
  const auto device = Backbone::random(config, 3, options);
  Tokens text;
  for (int i = 0; i < 200; ++i) text.push_back(i * 7 % 512);
  const Tensor expected = Context(*host, {text, text}, 0).hidden({4}, 0)[0],
               found = Context(*device, {text, text}, 0).hidden({4}, 0)[0];
  EXPECT_LT((found.cpu() - expected).abs().max().item<double>(), 2e-3);
}

}  // namespace
}  // namespace ctxc
