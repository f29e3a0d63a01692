// Checkpoints of the ComprExIT repository (comprexit.md section 11): config.json and safetensors with the
// frozen Llama below `lm.`, the method below `pooling_layer.` and `projector.`, and the tokenizer's files.
// Only here do that repository's configuration names appear.
#pragma once
#include <memory>
#include <string>

#include "core/json.h"
#include "core/yaml.h"
#include "model/compressor.h"

namespace ctxc {

/// True if `path` is a folder with such a config.json.
bool is_peer_checkpoint(const std::string& path);

/// The flat `compressor` section that equals the peer's config.json, in the parity settings (grid: padded,
/// positions: column). Error kInput lists everything that is not supported.
Yaml peer_compressor_section(const Json& config, const std::string& origin);

struct PeerMethod {
  std::shared_ptr<Backbone> backbone;  ///< of the checkpoint; its config holds the roles of bos, eos and pad
  std::shared_ptr<Compressor> compressor;
  Yaml section;                  ///< resolved with the overrides
  int64_t context_length = 512;  ///< columns of the padded grid
};
/// `base`: the model the checkpoint was trained on, "" = not compared. Its shared rows and other tensors must
/// equal the checkpoint's `lm.`; Error kInput lists all differences. `overrides`: "compressor.key=value".
PeerMethod load_peer_method(const std::string& path, const std::string& base = "",
                            const std::vector<std::string>& overrides = {},
                            const BackboneOptions& options = {});

/// Writes config.json, model.safetensors (shards above 5 GB) and the tokenizer's files, copied from
/// `tokenizer_folder`
/// ("" = none). `section`: the compressor's. Error kUsage where the peer has no name for a setting.
void save_peer_checkpoint(const std::string& folder, const Backbone& backbone, const Compressor& compressor,
                          const Yaml& section, int64_t context_length, const std::string& tokenizer_folder);

}  // namespace ctxc
