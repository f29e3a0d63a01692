#include "model/blocks/affine.h"

#include <cmath>

#include "core/random.h"

namespace ctxc {

Tensor draw(at::IntArrayRef shape, Draw rule, uint64_t seed, const std::string& name) {
  if (rule.kind == Draw::Kind::kConstant) return at::full(shape, rule.value, at::kFloat);
  Tensor result = at::empty(shape, at::kFloat);
  CounterRng rng(seed, name);
  float* values = result.mutable_data_ptr<float>();
  const bool normal = rule.kind == Draw::Kind::kNormal;
  for (int64_t i = 0, n = result.numel(); i < n; ++i)
    values[i] = static_cast<float>(rule.value * (normal ? rng.normal() : 2 * rng.uniform() - 1));
  return result;
}

Affine::Affine(Tensor weight_value, Tensor bias_value)
    : weight(register_parameter("weight", std::move(weight_value))),
      bias(register_parameter("bias", std::move(bias_value))) {}

Matrix::Matrix(Tensor weight_value) : weight(register_parameter("weight", std::move(weight_value))) {}

std::shared_ptr<Affine> make_linear(int64_t in, int64_t out, uint64_t seed, const std::string& name) {
  const Draw rule{Draw::Kind::kUniform, 1 / std::sqrt(static_cast<double>(in))};
  return std::make_shared<Affine>(draw({out, in}, rule, seed, name + ".weight"),
                                  draw({out}, rule, seed, name + ".bias"));
}

std::shared_ptr<Affine> make_layer_norm(int64_t width) {
  return std::make_shared<Affine>(at::ones({width}, at::kFloat), at::zeros({width}, at::kFloat));
}

std::shared_ptr<Matrix> make_matrix(int64_t in, int64_t out, uint64_t seed, const std::string& name,
                                    double gain) {
  const Draw rule{Draw::Kind::kNormal, gain / std::sqrt(static_cast<double>(in))};
  return std::make_shared<Matrix>(draw({out, in}, rule, seed, name + ".weight"));
}

Tensor linear(const Tensor& x, const Affine& layer) {
  return at::linear(x, layer.weight, layer.bias);
}

Tensor linear(const Tensor& x, const Matrix& layer) {
  return at::linear(x, layer.weight);
}

Tensor unit_rms(const Tensor& x) {
  const Tensor wide = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
  return wide * (wide.square().mean(-1, /*keepdim=*/true) + 1e-6).rsqrt();
}

Tensor layer_norm(const Tensor& x, const Affine& layer) {
  return at::layer_norm(x, {x.size(-1)}, layer.weight, layer.bias, 1e-5);
}

}  // namespace ctxc
