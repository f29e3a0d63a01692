// A compiled context as a file: the container of export-formats.md section 1, one safetensors file whose
// metadata key `ctxc` holds a JSON record of the model, the tokenizer and the context. Rows: header first,
// masked slots dropped.
#pragma once
#include <string>

#include "core/json.h"
#include "data/tokenizer.h"
#include "model/backbone.h"
#include "model/memory.h"

namespace ctxc {

struct MemoryArtifact {
  std::string kind;       ///< "embeds" | "kv"
  Tensor embeds_ND;       ///< header rows first
  Tensor k_LGNE, v_LGNE;  ///< keys after RoPE at positions 0..N-1
  OrderedJson info;       ///< the `ctxc` JSON of the metadata
};

/// Error kInput on anything that is not such a file: missing record or tensors, other shapes or types than it
/// says.
MemoryArtifact load_memory(const std::string& path);
void save_memory(const std::string& path, const MemoryArtifact& memory);

/// Error kInput naming every difference between the artifact's `model` record and this backbone and
/// tokenizer. `force` passes over the fingerprint of the weights, and over nothing else.
void check_memory_fits(const MemoryArtifact& memory, const Backbone& backbone, const Tokenizer& tokenizer,
                       bool force);

/// Row `row` of a memory as an artifact: header first, masked slots dropped. The caller adds what it knows of
/// the context
/// (`context`, `ratio`, `metrics`) to `info`.
MemoryArtifact make_memory_artifact(const Memory& memory, int64_t row, const Backbone& backbone,
                                    const Tokenizer& tokenizer, const std::string& method);

/// An artifact as the memory the decoder reads, [1, N]: no head of its own, rows at positions 0..N-1.
Memory memory_of(const MemoryArtifact& artifact, const Backbone& backbone);

}  // namespace ctxc
