// A state of fixed size that sums up what was read so far (the integration state G of diffusion.md section 5,
// the buffer of progressive.md): M vectors, updated by attention and a gate.
//   A = CrossAttn(q = G at position 0, kv = y at pbar - p_end);  gamma = sigmoid(W_g [G ; A] + b_g), b_g = -2
//   G' = (1 - gamma) G + gamma A
// Distances are taken from the end of what is being read, so they stay bounded while a text streams by.
#pragma once
#include "model/blocks/local_attention.h"

namespace ctxc {

class GatedState : public torch::nn::Module {
 public:
  GatedState(int64_t vectors, int64_t width, int64_t heads, uint64_t seed, const std::string& name);
  int64_t vectors() const { return initial_.size(0); }
  /// The state before anything was read: [B, M, d].
  Tensor start(int64_t batch) const;
  /// Where the vectors stand: position 0, exact.
  Places places(int64_t batch) const;
  /// `keys` relative to the end of the text read. Rows without keys keep their state.
  Tensor update(const Tensor& state_BMD, const Tensor& y_BKD, const Places& keys,
                const AttentionRule& rule) const;

 private:
  Tensor initial_;
  std::shared_ptr<MultiHeadAttention> attention_;
  std::shared_ptr<Affine> gate_;
};

}  // namespace ctxc
