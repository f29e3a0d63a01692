// Export of trained methods, backbones and memories to other programs' formats. A target is one file in
// exporters/ that registers itself; output appears whole or not at all.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/registry.h"

namespace ctxc {

struct ExportRequest {
  std::string in;     ///< run folder, checkpoint, memory artifact, or (hf) a model
  std::string out;    ///< what the exporter writes: a file or a folder, as its entry says; does not exist yet
  std::string model;  ///< path of the base, "" = the one the input names
  std::string dtype;  ///< float32 | bfloat16 | float16 | int8 (kv); "" = the target's default
  uint64_t shard_bytes = 5'000'000'000;             ///< largest weight file of a folder
  int64_t offset = 0;                               ///< positions by which the keys of a memory are moved
  std::optional<int64_t> llama_state_version = {};  ///< of the llama.cpp state file
  std::string llama_state_like = {};  ///< a state file saved by the user's llama.cpp, to copy the form of
  std::string llama_flash_attention = {};  ///< of the server that will read it: on | off; "" = not said
  std::optional<int64_t> llama_placeholder = {};  ///< token id that stands for a row
};

struct Exporter {
  bool folder = true;
  std::function<void(const ExportRequest&)> write;
  std::vector<std::string> options = {};  ///< "offset", "llama-…": those of the request that it reads
};
Registry<Exporter>& exporter_registry();

/// Error kUsage for an option of the request that the target does not read. Runs a target: into a temporary
/// name beside `request.out`, then moved into place. Existing output that is not an empty folder is Error
/// kBusy unless `overwrite`; then it is replaced at the end, in one rename.
void run_export(const std::string& target, const ExportRequest& request, bool overwrite);

/// At file scope of a target; its options come last.
#define CTXC_REGISTER_EXPORTER(id, name, is_folder, function, help, ...) \
  static const bool registered_exporter_##id =                           \
      ::ctxc::exporter_registry().add(name, {is_folder, function, {__VA_ARGS__}}, help)

}  // namespace ctxc
