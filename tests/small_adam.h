// Adam for tests of methods, which lie below the layer of the trainer and its optimizer.
#pragma once
#include <torch/nn/module.h>

#include <cmath>
#include <map>
#include <string>
#include <utility>

#include "model/shapes.h"

namespace ctxc::testing {

/// Betas 0.9 and 0.99. Gradients are those that backward() left.
class SmallAdam {
 public:
  explicit SmallAdam(double lr) : lr_(lr) {}
  void step(torch::nn::Module& module) {
    const at::NoGradGuard no_grad;
    ++steps_;
    for (auto& item : module.named_parameters()) {
      const Tensor grad = item.value().grad();
      if (!grad.defined()) continue;
      auto& [mean, square] =
          moments_.try_emplace(item.key(), at::zeros_like(grad), at::zeros_like(grad)).first->second;
      mean.mul_(0.9).add_(grad, 0.1);
      square.mul_(0.99).addcmul_(grad, grad, 0.01);
      const Tensor size =
          mean / (1 - std::pow(0.9, steps_)) / ((square / (1 - std::pow(0.99, steps_))).sqrt() + 1e-8);
      item.value().sub_(size, lr_);
    }
  }

 private:
  double lr_;
  int steps_ = 0;
  std::map<std::string, std::pair<Tensor, Tensor>> moments_;
};

}  // namespace ctxc::testing
