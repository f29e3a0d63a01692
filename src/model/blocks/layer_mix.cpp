#include "model/blocks/layer_mix.h"

#include <cmath>

#include "core/error.h"

namespace ctxc {

/// Logit by which the first state leads where it starts from given directions: a share of 0.95 among four.
constexpr double kLead = 4;

std::vector<int64_t> layers_to_read(const std::string& which, const std::vector<int64_t>& chosen,
                                    int64_t num_layers) {
  if (which == "embedding") return {0};
  if (which == "list") return chosen;
  std::vector<int64_t> read;
  for (int64_t l = 0; l <= num_layers; ++l) {
    const bool spread = l == 0 || l == std::lround(static_cast<double>(num_layers) / 4) ||
                        l == std::lround(static_cast<double>(num_layers) / 2) ||
                        l == std::lround(static_cast<double>(num_layers) * 3 / 4);
    if (which == "all" || spread) read.push_back(l);
  }
  return read;
}

void check_layers(const std::string& which, const std::vector<int64_t>& chosen, int64_t num_layers) {
  CTXC_CHECK(which != "list" || !chosen.empty(), ErrorKind::kUsage, "write 'layer_list: [0, 8, 16]'",
             "compressor.layer_list is empty (layers is list)");
  for (const int64_t layer : layers_to_read(which, chosen, num_layers))
    CTXC_CHECK(layer <= num_layers, ErrorKind::kUsage, "hidden state 0 is the embedding",
               "compressor.layer_list: no such hidden state (found {}, expected 0 to {})", layer, num_layers);
}

LayerMix::LayerMix(int64_t states, int64_t model_width, int64_t width, uint64_t seed, const std::string& name,
                   const Tensor& first) {
  if (states > 1) {
    Tensor start = at::zeros({states}, at::kFloat);
    if (first.defined()) start[0] = kLead;
    weight_S_ = register_parameter("weight", start);
  }
  for (int64_t l = 0; l < states; ++l) {
    const std::string part = "map" + std::to_string(l);
    maps_.push_back(register_module(part, l == 0 && first.defined()
                                              ? std::make_shared<Matrix>(first.clone())
                                              : make_matrix(model_width, width, seed, name + "." + part)));
  }
}

Tensor LayerMix::forward(const std::vector<Tensor>& hidden_PD) const {
  const Tensor share_S = weight_S_.defined() ? weight_S_.softmax(0) : Tensor();
  Tensor sum;
  for (size_t l = 0; l < maps_.size(); ++l) {
    Tensor term = linear(unit_rms(hidden_PD[l]), *maps_[l]).to(at::kFloat);
    if (share_S.defined()) term = term * share_S[static_cast<int64_t>(l)];
    sum = sum.defined() ? sum + term : term;
  }
  return sum;
}

}  // namespace ctxc
