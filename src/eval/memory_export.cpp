#include "eval/memory_export.h"

#include <filesystem>

#include "core/error.h"

namespace ctxc {

MemoryArtifact load_embeds(const std::string& path, const std::string& target) {
  CTXC_CHECK(std::filesystem::is_regular_file(path), ErrorKind::kInput, "make one with ctxc-run compress",
             "{}: the target '{}' takes a memory artifact (one file)", path, target);
  MemoryArtifact memory = load_memory(path);
  CTXC_CHECK(memory.kind == "embeds", ErrorKind::kUsage, "keys and values have no form as input embeddings",
             "{}: the target '{}' takes memories of kind embeds (found {})", path, target, memory.kind);
  return memory;
}

at::ScalarType embeds_type(const std::string& dtype, const MemoryArtifact& memory) {
  if (dtype.empty()) return memory.embeds_ND.scalar_type();
  return dtype == "float32" ? at::kFloat : dtype == "float16" ? at::kHalf : at::kBFloat16;
}

}  // namespace ctxc
