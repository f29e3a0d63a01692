// A weight and a bias under one name: what Linear and LayerNorm hold. Values are drawn from (seed, the
// parameter's full name), so that they do not depend on the order of construction.
#pragma once
#include <torch/nn/module.h>

#include <string>

#include "model/shapes.h"

namespace ctxc {

/// How fresh values are drawn: uniform in ±bound, normal with a standard deviation, or one constant.
struct Draw {
  enum class Kind { kUniform, kNormal, kConstant } kind = Kind::kConstant;
  double value = 0;
};
/// A float32 tensor drawn from (seed, stream `name`).
Tensor draw(at::IntArrayRef shape, Draw rule, uint64_t seed, const std::string& name);

class Affine : public torch::nn::Module {
 public:
  Affine(Tensor weight_value, Tensor bias_value);
  Tensor weight, bias;
};

/// A weight alone: a linear map without a bias.
class Matrix : public torch::nn::Module {
 public:
  explicit Matrix(Tensor weight_value);
  Tensor weight;
};

/// Linear [out, in] with PyTorch's default: weight and bias uniform in ±1/sqrt(in).
std::shared_ptr<Affine> make_linear(int64_t in, int64_t out, uint64_t seed, const std::string& name);
/// LayerNorm [width]: 1 and 0.
std::shared_ptr<Affine> make_layer_norm(int64_t width);
/// Matrix [out, in], normal with standard deviation gain / sqrt(in): inputs of rms 1 give outputs of rms
/// gain.
std::shared_ptr<Matrix> make_matrix(int64_t in, int64_t out, uint64_t seed, const std::string& name,
                                    double gain = 1);
/// x W^T + b
Tensor linear(const Tensor& x, const Affine& layer);
Tensor linear(const Tensor& x, const Matrix& layer);
/// x / rms(x) over the last dimension in float32, epsilon 1e-6 inside the root (zeros stay zeros).
Tensor unit_rms(const Tensor& x);
/// LayerNorm with epsilon 1e-5.
Tensor layer_norm(const Tensor& x, const Affine& layer);

}  // namespace ctxc
