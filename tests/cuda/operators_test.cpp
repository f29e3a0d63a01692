// The operators as the rest of ctxc meets them: every backend is there, Meta tells the shapes, and ComprExIT
// and diffusion train to the same gradients when every operator they call runs the CUDA kernels (over the
// host shim).
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include "kernel_testing.h"
#include "model/compressor.h"
#include "model/kernels/depth_mix.h"
#include "model/kernels/diffusion_step.h"
#include "model/kernels/norm_rope.h"
#include "model/kernels/sinkhorn.h"
#include "model/kernels/vocabulary_loss.h"
#include "model/loss.h"
#include "tiny_llama.h"

namespace ctxc {
namespace {

using testing::random_tokens;
using testing::relative_difference;
using testing::tiny_llama;
using testing::uniform;

const std::vector<const char*> kKernels = {
    "sinkhorn_forward",    "sinkhorn_backward", "weighted_states",
    "state_products",      "depth_gate_mix",    "depth_gate_mix_backward",
    "cross_entropy_rows_", "kl_rows_",          "rms_norm_forward",
    "rms_norm_backward",   "rope_qk",           "diffuse",
    "diffuse_backward",    "ddim_update",       "ddim_update_backward"};

bool has_kernel(const std::string& name, c10::DispatchKey key) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow(("ctxc::" + name).c_str(), "")
      .hasKernelForDispatchKey(key);
}

TEST(Operators, EveryKernelHasCpuMetaAndAutograd) {
  transport_plan(at::zeros({1, 1, 1}), at::ones({1, 1}), at::ones({1, 1}), 1, 1);
  for (const char* name : kKernels) {
    EXPECT_TRUE(has_kernel(name, c10::DispatchKey::CPU)) << name;
    EXPECT_TRUE(has_kernel(name, c10::DispatchKey::Meta)) << name;
  }
  for (const char* name : {"sinkhorn_plan", "weighted_states", "state_products", "depth_gate_mix", "rms_norm",
                           "rope_qk", "diffuse", "ddim_update"})
    EXPECT_TRUE(has_kernel(name, c10::DispatchKey::Autograd)) << name;
}

/// Shapes and types of the results of `run` for tensors on the CPU and on the meta device.
void expect_same_shapes(const std::string& name, const std::vector<Tensor>& inputs,
                        const std::function<std::vector<Tensor>(const std::vector<Tensor>&)>& run) {
  std::vector<Tensor> meta;
  for (const Tensor& input : inputs) meta.push_back(input.to(at::kMeta));
  const auto real = run(inputs), told = run(meta);
  ASSERT_EQ(real.size(), told.size());
  for (size_t i = 0; i < real.size(); ++i) {
    EXPECT_EQ(real[i].sizes(), told[i].sizes()) << name << " result " << i;
    EXPECT_TRUE(told[i].is_meta()) << name;
  }
}

TEST(Operators, MetaTellsTheShapes) {
  const Tensor cost = at::ones({2, 5, 3}), a = at::ones({2, 5}), b = at::ones({2, 3}), x = at::ones({4, 6}),
               w = at::ones({4, 2}), qk = at::ones({4, 2, 6}), table = at::ones({4, 1, 3});
  expect_same_shapes("sinkhorn", {cost, a, b}, [](const std::vector<Tensor>& t) {
    const auto [plan, u, v] = sinkhorn_forward(t[0], t[1], t[2], 4, 1);
    const auto [grad_cost, grad_a] = sinkhorn_backward(plan, t[0], t[1], t[2], u, v, 1);
    return std::vector<Tensor>{plan, u, v, grad_cost, grad_a, transport_plan(t[0], t[1], t[2], 4, 1)};
  });
  expect_same_shapes("depth", {x, w}, [](const std::vector<Tensor>& t) {
    const std::vector<Tensor> hidden = {t[0], t[0]};
    const auto [weights, mixed] = gate_and_mix_states(t[0], t[1], hidden, 1);
    return std::vector<Tensor>{mix_states(t[1], hidden), multiply_states(t[0], hidden), weights, mixed};
  });
  expect_same_shapes("losses", {x.clone(), x}, [](const std::vector<Tensor>& t) {
    const Tensor target = at::zeros({4}, t[0].options().dtype(at::kLong));
    const auto [loss, z] = cross_entropy_rows_(t[0], target, true);
    return std::vector<Tensor>{loss, z, kl_rows_(t[0], t[1], 2, true, true)};
  });
  expect_same_shapes("norm", {x, at::ones({6}), qk, table}, [](const std::vector<Tensor>& t) {
    const auto [q, k] = rope_qk_by_kernel(t[2], t[2], t[3], t[3], 1);
    return std::vector<Tensor>{rms_norm_by_kernel(t[0], t[1], 1e-5), rms_norm_rows(t[0], t[1], 1e-5), q, k};
  });
  expect_same_shapes("diffusion", {x, at::zeros({4}), at::zeros({4, 6})}, [](const std::vector<Tensor>& t) {
    const Prediction kind = Prediction::kVelocity;
    const auto [clean, next] = ddim_update(t[0], t[0], t[1], t[1], kind);
    const auto [each, next_each] = ddim_update_by_kernel(t[0], t[0], t[2], t[2], true);
    return std::vector<Tensor>{diffuse(t[0], t[1], t[0]),
                               diffuse_by_kernel(t[0], t[2], std::nullopt),
                               clean,
                               next,
                               each,
                               next_each,
                               std::get<0>(ddim_update(t[0], t[0], t[1], {}, kind))};
  });
}

int calls[15] = {};  // of each kernel

/// The function, counting its calls.
template <int index, class Result, class... Arguments>
auto counted(Result (*function)(Arguments...)) {
  static Result (*target)(Arguments...) = nullptr;
  target = function;
  return +[](Arguments... arguments) -> Result {
    ++calls[index];
    return target(std::forward<Arguments>(arguments)...);
  };
}

/// While it lives, CPU tensors go through the CUDA kernels (the dispatcher warns that it replaces the CPU's).
class KernelsOnTheHost {
 public:
  KernelsOnTheHost()
      : cpu_(torch::Library::IMPL, "ctxc", c10::DispatchKey::CPU, __FILE__, __LINE__),
        autograd_(torch::Library::IMPL, "ctxc", c10::DispatchKey::AutogradCPU, __FILE__, __LINE__) {
    cpu_.impl("sinkhorn_forward", counted<0>(cuda::sinkhorn_forward));
    cpu_.impl("sinkhorn_backward", counted<1>(cuda::sinkhorn_backward));
    cpu_.impl("weighted_states", counted<2>(cuda::weighted_states));
    cpu_.impl("state_products", counted<3>(cuda::state_products));
    cpu_.impl("depth_gate_mix", counted<4>(cuda::depth_gate_mix));
    cpu_.impl("depth_gate_mix_backward", counted<5>(cuda::depth_gate_mix_backward));
    cpu_.impl("cross_entropy_rows_", counted<6>(cuda::cross_entropy_rows_));
    cpu_.impl("kl_rows_", counted<7>(cuda::kl_rows_));
    cpu_.impl("rms_norm_forward", counted<8>(cuda::rms_norm_forward));
    cpu_.impl("rms_norm_backward", counted<9>(cuda::rms_norm_backward));
    cpu_.impl("rope_qk", counted<10>(cuda::rope_qk));
    cpu_.impl("diffuse", counted<11>(cuda::diffuse));
    cpu_.impl("diffuse_backward", counted<12>(cuda::diffuse_backward));
    cpu_.impl("ddim_update", counted<13>(cuda::ddim_update));
    cpu_.impl("ddim_update_backward", counted<14>(cuda::ddim_update_backward));
    autograd_.impl("diffuse", diffuse_by_kernel);
    autograd_.impl("ddim_update", ddim_update_by_kernel);
    autograd_.impl("rms_norm", rms_norm_by_kernel);
    autograd_.impl("rope_qk", rope_qk_by_kernel);
    std::fill(std::begin(calls), std::end(calls), 0);
  }

 private:
  torch::Library cpu_, autograd_;
};

/// Loss of reading the slots of two texts with the frozen Llama, and every gradient of the method.
std::map<std::string, Tensor> train_step(const std::string& method) {
  const auto backbone = Backbone::random(tiny_llama(), 3);
  const auto compressor =
      make_compressor(Yaml::parse(method, "test"), {.backbone = tiny_llama(), .head_ids = {1}, .seed = 5});
  // Some of a method's parameters start at 0 and keep gradients from others: moved, all are reached.
  uint64_t index = 60;
  for (const auto& item : compressor->named_parameters()) {
    const at::NoGradGuard no_grad;
    item.value().add_(uniform(item.value().sizes(), ++index, -0.02, 0.02, item.value().scalar_type()));
  }
  Context context(*backbone, {random_tokens(37, 1), random_tokens(9, 2)}, 0);
  const Compressed compressed =
      compressor->compress(context, {.seed = 0, .step = 0, .micro = 0, .training = true});
  const Memory& memory = compressed.memory;
  const int64_t slots = memory.slots_BKD.size(1);
  const Tensor positions_BK = at::arange(slots, at::kLong).expand({2, slots});
  const Tensor hidden =
      backbone->forward_padded(memory.slots_BKD, memory.mask_BK, positions_BK).hidden[0].flatten(0, 1);
  const Tensor target = at::arange(2 * slots, at::kLong).remainder(backbone->config().vocab_size),
               guide = uniform({2 * slots, backbone->config().hidden_size}, 40).to(at::kFloat);
  Tensor loss = chunked_cross_entropy(hidden, backbone->head_VD(), target, 5) +
                chunked_kl_divergence(hidden, backbone->head_VD(), guide, backbone->head_VD(), 5);
  for (const auto& [name, term] : compressed.aux)
    if (term.requires_grad()) loss = loss + term.sum() * 0.01;
  loss.backward();
  std::map<std::string, Tensor> found = {{"loss", loss.detach()}};
  for (const auto& item : compressor->named_parameters())
    if (item.value().grad().defined()) found[item.key()] = item.value().grad();
  return found;
}

/// Trains with and without the kernels; those from `first` on, `count` of them, must have run.
void expect_alike(const std::string& method, size_t first, size_t count) {
  const auto expected = train_step(method);
  std::map<std::string, Tensor> found;
  {
    const KernelsOnTheHost kernels;
    found = train_step(method);
    for (size_t i = first; i < first + count; ++i) EXPECT_GT(calls[i], 0) << kKernels[i];
  }
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [name, value] : expected) {
    if (value.abs().max().item<double>() < 1e-6) continue;  // what a softmax ignores: rounding on both sides
    EXPECT_LT(relative_difference(found.at(name), value), 2e-3) << name;
  }
  const auto again = train_step(method);  // and the CPU's own are back, to the bit
  for (const auto& [name, value] : expected) EXPECT_TRUE(at::equal(again.at(name), value)) << name;
}

TEST(Operators, ComprexitTrainsAlikeOnTheKernels) {
  expect_alike(
      "{name: comprexit, ratio: 4, window: 16, gate_width: 8, metric_width: 6, sinkhorn_iterations: 6}", 0,
      11);
}

TEST(Operators, DiffusionTrainsAlikeOnTheKernels) {
  const std::string common =
      "name: diffusion, ratio: 8, chunk: 64, width: 32, heads: 1, latent_width: 20, window: 8, state: 4";
  expect_alike("{" + common + ", steps: 3, prediction: x0, recon: false}", 11, 4);
  expect_alike("{" + common + ", lam_per_dim: true, recon: false, denoise: false}", 11, 4);
}

}  // namespace
}  // namespace ctxc
