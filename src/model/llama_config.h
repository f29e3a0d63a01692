// The Llama architecture's numbers, from config.json (Hugging Face) or GGUF metadata.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/gguf.h"
#include "core/json.h"

namespace ctxc {

/// RoPE scaling of Llama-3.1 (rope_type "llama3").
struct RopeScaling {
  double factor = 8, low_freq_factor = 1, high_freq_factor = 4;
  int64_t original_max_position = 8192;
};

struct LlamaConfig {
  int64_t vocab_size = 0, hidden_size = 0, num_layers = 0, num_heads = 0, num_kv_heads = 0, head_dim = 0;
  int64_t intermediate_size = 0, max_position = 0;
  double rms_norm_eps = 1e-5, rope_theta = 10000;
  std::optional<RopeScaling> rope_scaling;
  bool tie_word_embeddings = false;
  std::optional<int64_t> bos, pad;
  std::vector<int64_t> eos;  ///< may be several (Llama-3.1-Instruct)
  double initializer_range = 0.02;

  /// Error kInput naming every key that is missing or not supported (other architectures, biases, other RoPE
  /// scalings).
  static LlamaConfig from_json(const Json& json, const std::string& origin);
  static LlamaConfig from_gguf(const GgufFile& file);
  /// A folder with config.json, a config.json, or a GGUF file.
  static LlamaConfig load(const std::string& path);
  OrderedJson to_json() const;  ///< a config.json that transformers reads
  int64_t parameter_count() const;
};

}  // namespace ctxc
