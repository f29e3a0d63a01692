// What a token is before compression: its frozen hidden states, normalised, projected and weighed,
//   x = sum_l softmax(w)_l W_l rms(H^l)   (diffusion.md section 3)
#pragma once
#include <vector>

#include "model/blocks/affine.h"

namespace ctxc {

/// Hidden states that a method reads, 0 = the embedding: `spread` = the embedding and those after a quarter,
/// a half and three quarters of the layers; `all`; `embedding`; `list` = `chosen`.
std::vector<int64_t> layers_to_read(const std::string& which, const std::vector<int64_t>& chosen,
                                    int64_t num_layers);
/// Error kUsage where a state is named that the base does not have, or `list` names none.
void check_layers(const std::string& which, const std::vector<int64_t>& chosen, int64_t num_layers);

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
