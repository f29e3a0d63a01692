// Trainable low-rank adapters of chosen projections in every layer (Hu et al., "LoRA", 2021):
//   delta W = (alpha / rank) B A,   A [rank, in] ~ U(-1/sqrt(in), 1/sqrt(in)) (Kaiming, as PEFT), B [out,
//   rank] = 0
// so that a fresh set changes nothing. float32 masters; a forward pass gets them as Adapters.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "core/config.h"
#include "core/random.h"
#include "model/llama_config.h"
#include "model/lora.h"

namespace ctxc {

struct LoraConfig {
  int64_t rank = 32;
  double alpha = 64;
  double dropout = 0;
  std::vector<std::string> targets = {"q_proj", "k_proj", "v_proj", "o_proj"};
  void describe(Fields& f);
};

class LoraParameters {
 public:
  LoraParameters(const LoraConfig& config, const LlamaConfig& llama, uint64_t seed, const at::Device& device);
  /// The adapters as they are now; gradients flow into them. Dropout acts where `key` says training.
  Adapters adapters(const StepKey& key = {.training = false}) const;
  /// "layers.0.q_proj.lora_A", …: leaves with requires_grad.
  const std::vector<std::pair<std::string, Tensor>>& tensors() const { return tensors_; }

 private:
  struct Pair {
    int64_t layer;
    Projection projection;
    Tensor a_RD, b_DR;
  };
  int64_t layers_;
  double scale_, dropout_;
  std::vector<Pair> pairs_;
  std::vector<std::pair<std::string, Tensor>> tensors_;
};

/// Rows and columns of a projection's matrix, [out, in].
std::pair<int64_t, int64_t> projection_shape(const LlamaConfig& llama, Projection projection);

}  // namespace ctxc
