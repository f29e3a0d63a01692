// The README.md beside an exported memory: what it is, of which base, how well it reads, and how the engine
// loads it.
#pragma once
#include <string>

#include "model/memory_artifact.h"

namespace ctxc {

/// `files`: what lies in the folder; `use`: a code block for the engine, with its language in front
/// ("python\n…").
std::string model_card(const MemoryArtifact& memory, const std::string& target, const std::string& files,
                       const std::string& use);

}  // namespace ctxc
