#include "model/blocks/feed_forward.h"

#include "model/layers.h"

namespace ctxc {

FeedForward::FeedForward(int64_t width, uint64_t seed, const std::string& name, bool quiet) {
  const int64_t hidden = (8 * width / 3 + 63) / 64 * 64;
  gate_ = register_module("gate", make_matrix(width, hidden, seed, name + ".gate"));
  up_ = register_module("up", make_matrix(width, hidden, seed, name + ".up"));
  down_ = register_module("down", make_matrix(hidden, width, seed, name + ".down", quiet ? 0 : 1));
}

Tensor FeedForward::forward(const Tensor& x) const {
  return linear(swiglu(linear(x, *gate_), linear(x, *up_)), *down_);
}

}  // namespace ctxc
