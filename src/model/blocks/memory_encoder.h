// The encoder that ICAE and 500xCompressor share (SAC, what serves its keys): the base itself with LoRA reads
// the context and then K memory tokens, which see all of it. LoRA acts on every row and the base stays
// frozen, so the adapters cost nothing where the decoder reads.
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

/// Packed keys and values [1, G, P, E] at `index_N` (rows one after another, equally long), [B, G, N / B, E].
std::vector<KvPair> gather_keys(const std::vector<KvPair>& packed, const Tensor& index_N, int64_t batch);

/// Keys and values as slots that the decoder reads: behind the head without gaps, or, with `positions` (int64
/// [B, K]), there; keys are turned from where they were read (encoded.position_BK) to where they are served.
Memory serve_keys(const Context& context, const CompressorSetup& setup, bool sink, const Encoded& encoded,
                  const Tensor& positions_BK = {});

/// Registers adapters with a module as "layers/0/q_proj/lora_A" (a dot would name a submodule).
void register_lora(torch::nn::Module& module, const LoraParameters& lora);
/// Adapters among a module's parameters that keys and values of the last of `layers` layers do not depend on:
/// {prefix + parameter, reason}.
std::map<std::string, std::string> behind_the_last_keys(const torch::nn::Module& module, int64_t layers,
                                                        const std::string& prefix);

class MemoryEncoder : public torch::nn::Module {
 public:
  MemoryEncoder(const MemoryEncoderConfig& config, const CompressorSetup& setup);
  int64_t slots_for(int64_t tokens) const;
  Encoded encode(Context& context, const StepKey& key, bool keep_kv) const;

 private:
  MemoryEncoderConfig config_;
  std::optional<LoraParameters> lora_;
  Tensor memory_MD_;
};

}  // namespace ctxc
