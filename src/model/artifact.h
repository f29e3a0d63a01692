// A saved method: configuration and trainable tensors in one safetensors file, beside what it was trained on.
// Loaded by evaluation, export and ctxc-run; recognised by content: our checkpoint folder, a run folder (its
// newest undamaged checkpoint), or a directory of the ComprExIT repository (model/peer_checkpoint.h).
#pragma once
#include <memory>
#include <string>

#include "core/json.h"
#include "core/yaml.h"
#include "data/prompt.h"
#include "model/compressor.h"
#include "model/memory_artifact.h"
#include "model/peer_checkpoint.h"

namespace ctxc {

struct LoadedMethod {
  std::shared_ptr<Backbone> backbone;
  std::shared_ptr<Compressor> compressor;  ///< in eval() mode
  Tokenizer tokenizer;
  PromptConfig prompt;         ///< of a peer checkpoint: what that repository's evaluation does
  OrderedJson state;           ///< state.json; of a peer checkpoint {"context_length": …}
  Yaml config;                 ///< resolved run configuration, or null for a peer checkpoint
  Yaml section;                ///< the compressor's section
  std::string path;            ///< the folder the tensors came from
  std::string tokenizer_path;  ///< where the tokenizer was read
  /// Columns of the padded grid the method was trained on; 0 = the longest context of a batch.
  int64_t padded_length = 0;
};

/// `model`: path of the base, "" = the one the checkpoint names. `overrides`: "compressor.key=value". Error
/// kInput lists all differences at once.
LoadedMethod load_method(const std::string& checkpoint, const std::string& model = "",
                         const std::vector<std::string>& overrides = {}, const BackboneOptions& options = {});

/// `path` itself if it holds state.json, else the newest checkpoint of the run folder whose tensors match
/// their hash (damaged ones are skipped with a warning). Error kInput.
std::string resolve_checkpoint(const std::string& path);

}  // namespace ctxc
