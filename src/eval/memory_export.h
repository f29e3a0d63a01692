// What the exporters of memories share.
#pragma once
#include <string>

#include "model/memory_artifact.h"

namespace ctxc {

/// The memory artifact at `path`, which must be of kind `embeds`; Error kUsage naming the target if it is
/// not.
MemoryArtifact load_embeds(const std::string& path, const std::string& target);
/// The type to store: of `dtype`, or the memory's own where that is empty.
at::ScalarType embeds_type(const std::string& dtype, const MemoryArtifact& memory);

}  // namespace ctxc
