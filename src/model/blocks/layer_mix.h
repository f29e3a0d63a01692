// What a token is before compression: its frozen hidden states, normalised, projected and weighed,
//   x = sum_l softmax(w)_l W_l rms(H^l)   (diffusion.md section 3)
#pragma once
#include <vector>

#include "model/blocks/affine.h"

namespace ctxc {

class LayerMix : public torch::nn::Module {
 public:
  /// `first`: initial W of the first state [d, D] (e.g. of the embedding table's principal directions), which
  /// then outweighs the others at the start; undefined: random, all equal.
  LayerMix(int64_t states, int64_t model_width, int64_t width, uint64_t seed, const std::string& name,
           const Tensor& first = {});
  /// float32 [P, d].
  Tensor forward(const std::vector<Tensor>& hidden_PD) const;

 private:
  Tensor weight_S_;  ///< undefined for one state
  std::vector<std::shared_ptr<Matrix>> maps_;
};

}  // namespace ctxc
