// A state of fixed size that sums up what was read so far (the integration state G of diffusion.md section 5,
// the buffer of progressive.md): M vectors, updated by attention and a gate.
//   A = CrossAttn(q = G at position 0, kv = y at pbar - p_end);  gamma = sigmoid(W_g [G ; A] + b_g), b_g = -2
//   G' = (1 - gamma) G + gamma A
// Options for the buffer of `progressive`: A reads [y ; G] (keys of G at position 0); gamma = 1 / c at the
// c-th update instead of the gate (a running mean, as CCM-merge); a SwiGLU residual and an RMS norm close the
// update. Distances are taken from the end of what is being read, so they stay bounded while a text streams
// by.
#pragma once
#include "model/blocks/feed_forward.h"
#include "model/blocks/local_attention.h"

namespace ctxc {

struct GatedStateOptions {
  bool reads_itself = false, running_mean = false, feed_forward = false;
};

class GatedState : public torch::nn::Module {
 public:
  GatedState(int64_t vectors, int64_t width, int64_t heads, uint64_t seed, const std::string& name,
             GatedStateOptions options = {});
  int64_t vectors() const { return initial_.size(0); }
  /// The state before anything was read: [B, M, d].
  Tensor start(int64_t batch) const;
  /// Where the vectors stand: position 0, exact.
  Places places(int64_t batch) const;
  /// `keys` relative to the end of the text read. Rows without keys keep their state. `count_B` (float): the
  /// number of this update in each row, from 1; read with running_mean alone.
  Tensor update(const Tensor& state_BMD, const Tensor& y_BKD, const Places& keys, const AttentionRule& rule,
                const Tensor& count_B = {}) const;

 private:
  Tensor initial_;
  std::shared_ptr<MultiHeadAttention> attention_;
  std::shared_ptr<Affine> gate_;  ///< none with running_mean
  std::shared_ptr<FeedForward> feed_forward_;
  GatedStateOptions options_;
};

}  // namespace ctxc
