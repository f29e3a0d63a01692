// The SwiGLU feed-forward layer (Shazeer, 2020) of hidden width 8d/3, rounded up to a multiple of 64, without
// biases:
//   y = W_down (silu(W_gate x) * W_up x)
#pragma once
#include "model/blocks/affine.h"

namespace ctxc {

class FeedForward : public torch::nn::Module {
 public:
  /// `quiet`: the output projection starts at zero.
  FeedForward(int64_t width, uint64_t seed, const std::string& name, bool quiet = false);
  Tensor forward(const Tensor& x) const;

 private:
  std::shared_ptr<Matrix> gate_, up_, down_;
};

}  // namespace ctxc
