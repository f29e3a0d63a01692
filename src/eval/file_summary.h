// What a file or folder holds, without building a model: kind, configuration, tensors, fingerprints, metrics.
#pragma once
#include <string>

#include "core/json.h"

namespace ctxc {

/// Recognised by content: Hugging Face folder, GGUF, safetensors, memory artifact, checkpoint, run folder,
/// evaluation folder, ComprExIT checkpoint. Keys: path, kind, then what that kind has (config, parameters,
/// bytes, tensors, fingerprints, metrics, …). Error kInput if it is none of these or broken.
OrderedJson summarize_file(const std::string& path);

/// The summary for people. Tensors of numbered layers are folded into one line unless `all_tensors`.
std::string render_summary(const OrderedJson& summary, bool all_tensors);

}  // namespace ctxc
