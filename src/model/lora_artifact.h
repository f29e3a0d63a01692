// Adapters of a compile as a file, for other programs (export-formats.md sections 3.4 and 6.3): safetensors
// with `layers.L.q_proj.lora_A` [R, in] and `.lora_B` [out, R] as float32, the buffers' input embeddings
// `buffers` [K, D], and a record under the metadata key `ctxc`. With them another program can repeat the
// compile pass; memories never need them.
#pragma once
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/json.h"
#include "model/lora_parameters.h"
#include "model/shapes.h"

namespace ctxc {

struct LoraArtifact {
  LoraConfig config;
  std::map<std::string, Tensor> tensors;  ///< lora_A and lora_B by name
  Tensor buffers_KD;                      ///< undefined if none are kept
  OrderedJson info;                       ///< kind "lora", rank, alpha, targets, model
};

void save_lora(const std::string& path, const LoraArtifact& lora);
/// Error kInput on anything else: missing halves, other shapes than the record's base has, unknown names.
LoraArtifact load_lora(const std::string& path);

/// "layers.3.q_proj.lora_A" -> (3, "q_proj", "lora_A"). Error kInput.
struct LoraName {
  int64_t layer;
  std::string projection, half;
};
LoraName lora_name(const std::string& name, const std::string& origin);

}  // namespace ctxc
