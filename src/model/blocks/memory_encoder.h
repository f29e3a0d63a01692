// The encoder that ICAE and 500xCompressor share: the base itself with LoRA reads the context and then K
// memory tokens, which see all of it. LoRA acts on every row and the base stays frozen, so the adapters cost
// nothing where the decoder reads.
//   input  [x_0 .. x_{N-1}, e_0 .. e_{K-1}], positions 0 .. N+K-1, causal
//   K      min(ceil(N / ratio), M); with ratio 0 always M, as published for windows of one length
//   e      [M, D] learned memory embeddings, normal(0, 1) as published or of the size of an embedding
#pragma once
#include <optional>
#include <string>

#include "model/compressor.h"
#include "model/lora_parameters.h"

namespace ctxc {

struct MemoryEncoderConfig {
  int64_t ratio = 4, memory_tokens = 128;
  std::string init = "embedding";
  LoraConfig lora = {
      .rank = 128,
      .alpha = 32,
      .dropout = 0.05,
      .targets = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}};
  bool sink = true;
  void describe(Fields& f);
};

/// What the encoder made of a batch: memory token k of row b, padded to the longest row.
struct Encoded {
  Tensor hidden_BKD;       ///< last hidden states, after the final norm
  std::vector<KvPair> kv;  ///< with `keep_kv`: keys (after RoPE, at position_BK) and values, [B, G, K, E]
  Tensor mask_BK;          ///< bool
  Tensor position_BK;      ///< int64, N + k; 0 where masked
};

class MemoryEncoder : public torch::nn::Module {
 public:
  MemoryEncoder(const MemoryEncoderConfig& config, const CompressorSetup& setup);
  int64_t slots_for(int64_t tokens) const;
  Encoded encode(Context& context, const StepKey& key, bool keep_kv) const;
  /// Adapters of the last layer that its keys and values do not depend on: {prefix + parameter, reason}.
  std::map<std::string, std::string> behind_the_last_keys(const std::string& prefix) const;

 private:
  MemoryEncoderConfig config_;
  int64_t layers_;
  std::optional<LoraParameters> lora_;
  Tensor memory_MD_;
};

}  // namespace ctxc
