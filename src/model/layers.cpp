#include "model/layers.h"

#include <ATen/cpu/Utils.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <numbers>

#include "core/random.h"
#include "model/kernels/norm_rope.h"

namespace ctxc {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// y = x W^T with a frozen W of a narrower type: only W as stored is kept for backward.
struct WideningLinear : Function<WideningLinear> {
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight) {
    context->save_for_backward({weight});
    return at::linear(x, weight.to(x.scalar_type()));
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const Tensor weight = context->get_saved_variables()[0];
    return {at::matmul(grads[0], weight.to(grads[0].scalar_type())), Tensor()};
  }
};

}  // namespace

Tensor rms_norm(const Tensor& x, const Tensor& weight_D, double eps) {
  return rms_norm_rows(x, weight_D, eps);
}

Tensor swiglu(const Tensor& gate, const Tensor& up) {
  return at::silu(gate) * up;
}

bool cpu_multiplies_bfloat16() {
  static const bool fast = [] {
    const auto capabilities = at::cpu::get_cpu_capabilities();
    const auto has = [&](const char* name) {
      const auto found = capabilities.find(name);
      return found != capabilities.end() && found->second.isBool() && found->second.toBool();
    };
    return has("avx512_bf16") || has("amx_bf16");
  }();
  return fast;
}

Tensor lora_input(const Tensor& x, const LoraDropout& dropout) {
  if (dropout.rate == 0) return x;
  Tensor keep = at::empty(x.sizes(), at::kFloat);
  CounterRng rng(dropout.seed, "lora.dropout", dropout.step, dropout.adapter);
  float* values = keep.mutable_data_ptr<float>();
  const float kept = static_cast<float>(1 / (1 - dropout.rate));
  for (int64_t i = 0; i < keep.numel(); ++i) values[i] = rng.next_u32() * 0x1p-32 < dropout.rate ? 0 : kept;
  return x * keep.to(x.options());
}

Tensor adapted_linear(const Tensor& x, const Tensor& weight, const LoraPair* lora, Products products) {
  Tensor y;
  if (weight.scalar_type() == x.scalar_type()) {
    y = at::linear(x, weight);
  } else if (products == Products::kNarrow) {
    y = at::linear(x.to(weight.scalar_type()), weight).to(x.scalar_type());
  } else if (x.requires_grad() && at::GradMode::is_enabled()) {
    y = WideningLinear::apply(x, weight);
  } else {
    y = at::linear(x, weight.to(x.scalar_type()));
  }
  if (!lora) return y;
  const Tensor low = at::linear(lora_input(x, lora->dropout), lora->a_RD.to(x.scalar_type()));
  return y + at::linear(low, lora->b_DR.to(x.scalar_type())) * lora->scale;
}

Tensor rope_inverse_frequencies(const LlamaConfig& config) {
  // float32 throughout, as transformers computes them: at large positions the rounding is visible in the
  // angles.
  const Tensor exponent = at::arange(0, config.head_dim, 2, at::kLong).to(at::kFloat) / config.head_dim;
  Tensor frequency = at::pow(at::Scalar(config.rope_theta), exponent).reciprocal();
  if (!config.rope_scaling) return frequency;
  const RopeScaling& scaling = *config.rope_scaling;
  const double context = static_cast<double>(scaling.original_max_position);
  const Tensor wavelength = frequency.reciprocal() * (2 * std::numbers::pi);
  const Tensor slow = frequency / scaling.factor;
  const Tensor smooth =
      (context / wavelength - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  const Tensor between = (1 - smooth) * slow + smooth * frequency;
  const Tensor is_low = wavelength > context / scaling.low_freq_factor;
  const Tensor is_high = wavelength < context / scaling.high_freq_factor;
  return at::where(is_low, slow, at::where(is_high, frequency, between));
}

RopeTable rope_table(const Tensor& inverse_frequencies, const Tensor& positions_P, at::ScalarType dtype) {
  const Tensor angle = (positions_P.to(at::kFloat).unsqueeze(-1) * inverse_frequencies).unsqueeze(1);
  return {angle.cos().to(dtype), angle.sin().to(dtype)};
}

Tensor apply_rope(const Tensor& x_PHE, const RopeTable& table) {
  return rope_reference(x_PHE, table.cos, table.sin);
}

Tensor shift_keys(const Tensor& key, const Tensor& delta_N, const Tensor& inverse_frequencies) {
  const Tensor angle_NE = delta_N.to(at::kDouble).unsqueeze(-1) * inverse_frequencies.to(at::kDouble);
  const Tensor cos_NE = angle_NE.cos().to(at::kFloat), sin_NE = angle_NE.sin().to(at::kFloat);
  return rope_reference(key.to(at::kFloat), cos_NE, sin_NE).to(key.scalar_type());
}

}  // namespace ctxc
