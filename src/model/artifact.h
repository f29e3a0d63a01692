// A saved method: configuration and trainable tensors in one safetensors file, beside what it was trained on.
// Loaded by evaluation, export and ctxc-run; recognised by content: our checkpoint folder, a run folder (its
// newest checkpoint), or a directory of the ComprExIT repository (config.json + safetensors, comprexit.md
// section 11).
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/json.h"
#include "data/prompt.h"
#include "model/compressor.h"

namespace ctxc {

struct LoadedMethod {
  std::shared_ptr<Backbone> backbone;
  std::shared_ptr<Compressor> compressor;
  Tokenizer tokenizer;
  PromptConfig prompt;
  OrderedJson state;  ///< state.json, or {} for a peer checkpoint
  Yaml config;        ///< resolved run configuration, or null for a peer checkpoint
  std::string path;
};

/// `model`: path of the base, "" = the one the checkpoint names. Error kInput lists all differences at once.
LoadedMethod load_method(const std::string& checkpoint, const std::string& model = "");

/// True if `path` holds a checkpoint of the ComprExIT repository.
bool is_peer_checkpoint(const std::string& path);
/// The flat `compressor` section that equals the peer's config.json.
Yaml peer_compressor_section(const Json& config, const std::string& origin);

/// A compiled context (export-formats.md section 1), kind `embeds` or `kv`.
struct MemoryArtifact {
  std::string kind;  ///< "embeds" | "kv"
  Tensor embeds_ND;  ///< header rows first
  Tensor k_LGNE, v_LGNE;
  OrderedJson info;  ///< the `ctxc` JSON of the metadata
};
MemoryArtifact load_memory(const std::string& path);
void save_memory(const std::string& path, const MemoryArtifact& memory);
/// Error kInput naming every difference between the artifact's `model` record and this backbone and
/// tokenizer.
void check_memory_fits(const MemoryArtifact& memory, const Backbone& backbone, const Tokenizer& tokenizer,
                       bool force);
/// Row `row` of a memory as an artifact: header embeddings first, masked slots dropped.
MemoryArtifact make_memory_artifact(const Memory& memory, int64_t row, const Backbone& backbone,
                                    const Tokenizer& tokenizer, const std::string& method);

}  // namespace ctxc
