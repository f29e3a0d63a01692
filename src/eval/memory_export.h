// What the exporters of memories share.
#pragma once
#include <string>

#include "eval/exporter.h"
#include "model/memory_artifact.h"

namespace ctxc {

/// The memory artifact at `path`, of either kind; Error kInput naming the target if it is none.
MemoryArtifact load_any_memory(const std::string& path, const std::string& target);
/// A memory of kind `embeds`; Error kUsage naming the target if it is not.
MemoryArtifact load_embeds(const std::string& path, const std::string& target);
/// A memory of kind `kv`, its keys moved by the request's offset, k and v in the request's type (as stored
/// where it names none; int8 becomes float32). Error kUsage naming the target if it is of kind `embeds`.
MemoryArtifact load_kv(const ExportRequest& request, const std::string& target);
/// The type to store: of `dtype`, or the memory's own where that is empty.
at::ScalarType embeds_type(const std::string& dtype, const MemoryArtifact& memory);
/// float32 | float16 | bfloat16; Error kUsage for other names.
at::ScalarType float_type(const std::string& dtype);
/// Path of the base: the request's, else the one the memory names.
std::string base_of(const ExportRequest& request, const Json& info);

}  // namespace ctxc
