// Times every kernel on a GPU in the shapes of Llama-3.1-8B, beside the same in ATen calls. Prints CSV:
// kernel, milliseconds (median of 50 after 5 warm-up runs), milliseconds of ATen, GB/s of the bytes that must
// move, the bound those bytes give on an H100 (3.35 TB/s). Not a test: experiments/gpu/run.sh runs it.
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>

#include "core/cli.h"
#include "model/device.h"
#include "model/kernels/depth_mix.h"
#include "model/kernels/diffusion_step.h"
#include "model/kernels/norm_rope.h"
#include "model/kernels/sinkhorn.h"
#include "model/kernels/vocabulary_loss.h"
#include "model/numerics.h"

namespace ctxc {
namespace {

constexpr double kBytesPerSecond = 3.35e12;

class Bench {
 public:
  explicit Bench(at::Device device) : device_(device), guard_(device.type()) {}

  double milliseconds(const std::function<void()>& run) const {
    std::vector<double> times;
    for (int i = 0; i < 55; ++i) {
      guard_.synchronizeDevice(device_.index());
      const auto start = std::chrono::steady_clock::now();
      run();
      guard_.synchronizeDevice(device_.index());
      const auto end = std::chrono::steady_clock::now();
      if (i >= 5) times.push_back(std::chrono::duration<double, std::milli>(end - start).count());
    }
    std::nth_element(times.begin(), times.begin() + 25, times.end());
    return times[25];
  }

  void row(const char* name, double bytes, const std::function<void()>& kernel,
           const std::function<void()>& aten) const {
    const double own = milliseconds(kernel), other = milliseconds(aten);
    std::printf("%s,%.4f,%.4f,%.1f,%.4f\n", name, own, other, bytes / own / 1e6,
                1e3 * bytes / kBytesPerSecond);
  }

  Tensor random(at::IntArrayRef shape, at::ScalarType dtype) const {
    return at::randn(shape, at::TensorOptions().device(device_).dtype(dtype));
  }

 private:
  at::Device device_;
  c10::impl::VirtualGuardImpl guard_;
};

void time_depth(const Bench& bench) {
  constexpr int64_t kTokens = 8192, kWidth = 4096, kStates = 33;
  std::vector<Tensor> hidden;
  for (int64_t l = 0; l < kStates; ++l) hidden.push_back(bench.random({kTokens, kWidth}, at::kBFloat16));
  const Tensor pull = bench.random({kTokens, kWidth}, at::kFloat) * 0.01,
               offset = bench.random({kTokens, kStates}, at::kFloat);
  const double read = 2.0 * kStates * kTokens * kWidth, wide = 4.0 * kTokens * kWidth;
  const auto products = [&] {
    std::vector<Tensor> columns;
    for (const Tensor& h : hidden) columns.push_back((pull * h).sum(1));
    return at::stack(columns, 1);
  };
  const auto mix = [&](const Tensor& weights) {
    Tensor sum = weights.narrow(1, 0, 1) * hidden[0];
    for (int64_t l = 1; l < kStates; ++l)
      sum.addcmul_(weights.narrow(1, l, 1), hidden[static_cast<size_t>(l)].to(at::kFloat));
    return sum;
  };
  bench.row(
      "depth_gate_mix", read + 2 * wide, [&] { gate_and_mix_states(pull, offset, hidden, 0.1); },
      [&] { mix(((products() + offset) * 0.1).softmax(1)); });
  bench.row(
      "weighted_states", read + wide, [&] { mix_states(offset, hidden); }, [&] { mix(offset); });
  bench.row(
      "state_products", read + wide, [&] { multiply_states(pull, hidden); }, [&] { products(); });
}

void time_rows(const Bench& bench) {
  constexpr int64_t kRows = 256, kVocabulary = 128256;
  const Tensor logits = bench.random({kRows, kVocabulary}, at::kBFloat16),
               guide = bench.random({kRows, kVocabulary}, at::kBFloat16);
  const Tensor target = at::arange(kRows, logits.options().dtype(at::kLong));
  const double all = 2.0 * kRows * kVocabulary;
  bench.row(
      "cross_entropy_rows", 3 * all, [&] { cross_entropy_rows_(logits, target, true); },
      [&] {
        const Tensor p = logits.to(at::kFloat).softmax(1);
        p.scatter_add_(1, target.unsqueeze(1), -at::ones({kRows, 1}, p.options()));
        logits.copy_(p);
      });
  bench.row(
      "kl_rows", 5 * all, [&] { kl_rows_(logits, guide, 1, false, true); },
      [&] {
        const Tensor student = logits.to(at::kFloat).log_softmax(1),
                     teacher = guide.to(at::kFloat).log_softmax(1);
        const Tensor p = teacher.exp();
        (p * (teacher - student)).sum(1);
        logits.copy_(student.exp() - p);
      });
  const Tensor x = bench.random({8192, 4096}, at::kBFloat16), weight = bench.random({4096}, at::kBFloat16);
  bench.row(
      "rms_norm", 4.0 * 8192 * 4096, [&] { rms_norm_rows(x, weight, 1e-5); },
      [&] { rms_norm_reference(x, weight, 1e-5); });
  const Tensor q = bench.random({8192, 32, 128}, at::kBFloat16),
               k = bench.random({8192, 8, 128}, at::kBFloat16),
               cos = bench.random({8192, 1, 64}, at::kBFloat16);
  bench.row(
      "rope_qk", 4.0 * 8192 * 40 * 128, [&] { rope_qk(q, k, cos, cos); },
      [&] {
        rope_reference(q, cos, cos);
        rope_reference(k, cos, cos);
      });
}

void time_sinkhorn(const Bench& bench) {
  const Tensor cost = bench.random({64, 128, 32}, at::kFloat).abs(),
               a = at::full({64, 128}, 1.0 / 128, cost.options()),
               b = at::full({64, 32}, 1.0 / 32, cost.options());
  bench.row(
      "sinkhorn_forward", 3.3e6, [&] { sinkhorn_forward(cost, a, b, 30, 0.1); },
      [&] { sinkhorn_plan_plain(cost, a, b, 30, 0.1); });
  const Tensor learned = cost.clone().requires_grad_();
  bench.row(
      "sinkhorn_with_backward", 7.6e6, [&] { transport_plan(learned, a, b, 30, 0.1).sum().backward(); },
      [&] { sinkhorn_plan_plain(learned, a, b, 30, 0.1).sum().backward(); });
}

/// 16 contexts of 512 tokens at ratio 4, latents of the default width for a model of 4096.
void time_diffusion(const Bench& bench) {
  const std::vector<int64_t> shape = {16, 128, 512};
  const Tensor clean = bench.random(shape, at::kFloat), eps = bench.random(shape, at::kFloat),
               level = bench.random({16, 128}, at::kFloat), next = level + 1;
  const double all = 4.0 * static_cast<double>(clean.numel());
  {
    const at::NoGradGuard no_grad;
    bench.row(
        "diffuse", 3 * all, [&] { diffuse(clean, level, eps); },
        [&] { diffuse_reference(clean, level, eps); });
    bench.row(
        "ddim_update", 4 * all, [&] { ddim_update(clean, eps, level, next, Prediction::kVelocity); },
        [&] { ddim_update_reference(clean, eps, level, next, true); });
  }
  const auto leaf = [](const Tensor& x) { return x.clone().requires_grad_(); };
  const std::vector<Tensor> in = {leaf(clean), leaf(eps), leaf(level), leaf(next)};
  const auto differentiate = [&](const std::tuple<Tensor, Tensor>& results) {
    torch::autograd::grad({std::get<0>(results), std::get<1>(results)}, in, {clean, clean});
  };
  bench.row(
      "ddim_update_with_backward", 10 * all,
      [&] { differentiate(ddim_update(in[0], in[1], in[2], in[3], Prediction::kVelocity)); },
      [&] { differentiate(ddim_update_reference(in[0], in[1], in[2], in[3], true)); });
}

int run() {
  const Bench bench(resolve_device("cuda"));
  std::printf("kernel,milliseconds,aten_milliseconds,gigabytes_per_second,h100_bound_milliseconds\n");
  {
    const at::NoGradGuard no_grad;
    time_depth(bench);
    time_rows(bench);
  }
  time_sinkhorn(bench);
  time_diffusion(bench);
  return 0;
}

}  // namespace
}  // namespace ctxc

int main() {
  return ctxc::run_main(ctxc::run);
}
