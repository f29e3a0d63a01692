// AdamW (Loshchilov & Hutter, "Decoupled weight decay regularization", 2019) over named tensors, and
// global-norm clipping.
//   m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
//   p = p (1 - lr wd) - lr m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps)
// State is float32 and named after its tensor, so that a checkpoint can be read by people and checked by
// name.
#pragma once
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "model/shapes.h"

namespace ctxc {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double weight_decay = 0;               ///< of tensors with two dimensions or more
  std::set<std::string> undecayed = {};  ///< names of those among them that are left alone
};

class AdamW {
 public:
  /// `parameters`: float32 leaves with requires_grad. Error kInternal where `options` names others.
  AdamW(NamedTensors parameters, AdamWOptions options);
  const NamedTensors& parameters() const { return parameters_; }
  /// Updates every parameter that has a gradient.
  void step(double lr);
  void zero_grad();
  /// "<name>.exp_avg", "<name>.exp_avg_sq" and "<name>.step" (float32 scalar).
  NamedTensors state() const;
  /// Error kInput naming every missing, unexpected and wrongly shaped tensor.
  void load_state(const std::map<std::string, Tensor>& state, const std::string& origin);

 private:
  NamedTensors parameters_;
  AdamWOptions options_;
  std::vector<Tensor> exp_avg_, exp_avg_sq_, steps_;
  std::vector<bool> decayed_;
};

/// Euclidean norm over all gradients, float64; 0 without any.
double gradient_norm(const NamedTensors& parameters);
/// Scales all gradients by max_norm / (norm + 1e-6) where that is below 1, as torch.nn.utils.clip_grad_norm_
/// does.
void clip_gradients(const NamedTensors& parameters, double norm, double max_norm);
/// Names of parameters whose gradient holds NaN or infinity.
std::vector<std::string> non_finite_gradients(const NamedTensors& parameters);

/// Copies `values` into `parameters` by name. Error kInput naming every difference at once.
void copy_into(const NamedTensors& parameters, const std::map<std::string, Tensor>& values,
               const std::string& origin);

}  // namespace ctxc
