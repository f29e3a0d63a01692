// A compiled context as a file: the container of export-formats.md section 1, one safetensors file whose
// metadata key `ctxc` holds a JSON record of the model, the tokenizer and the context. Rows: header first,
// masked slots dropped.
#pragma once
#include <optional>
#include <string>

#include "core/json.h"
#include "data/tokenizer.h"
#include "model/backbone.h"
#include "model/memory.h"

namespace ctxc {

/// Keys and values as int8: one scale per channel of the keys, one per row of the values.
struct Int8Rows {
  Tensor k_LGNE, v_LGNE;              ///< int8
  Tensor k_scale_LG1E, v_scale_LGN1;  ///< float32
};

struct MemoryArtifact {
  std::string kind;              ///< "embeds" | "kv"
  Tensor embeds_ND;              ///< header rows first
  Tensor k_LGNE, v_LGNE;         ///< keys after RoPE at positions 0..N-1
  std::optional<Int8Rows> int8;  ///< what the file holds instead of k and v, which are then its values
  OrderedJson info;              ///< the `ctxc` JSON of the metadata
  int64_t rows() const;          ///< header and slots
  /// Position of the first row: 0, or what moved_by() made of it.
  int64_t first() const {
    return info.contains("positions") ? info["positions"].value("first", int64_t{0}) : 0;
  }
  int64_t header() const { return info.value("n_header", int64_t{0}); }
};

/// Error kInput on anything that is not such a file: missing record or tensors, other shapes or types than it
/// says, positions other than 0..N-1.
MemoryArtifact load_memory(const std::string& path);
void save_memory(const std::string& path, const MemoryArtifact& memory);

/// Error kInput naming every difference between the artifact and this backbone and tokenizer: the `model`
/// record, the tokenizer, and the header's rows, which must be those of header_token_ids on this base.
/// `force` passes over what depends on the weights (their fingerprint and the header's rows), and over
/// nothing else.
void check_memory_fits(const MemoryArtifact& memory, const Backbone& backbone, const Tokenizer& tokenizer,
                       bool force);

/// Row `row` of a memory as an artifact: header first, masked slots dropped; slots that stand with gaps are
/// moved together, with a warning. The caller adds what it knows of the context (`context`, `ratio`,
/// `metrics`) to `info`.
MemoryArtifact make_memory_artifact(const Memory& memory, int64_t row, const Backbone& backbone,
                                    const Tokenizer& tokenizer, const std::string& method);
/// Keys and values [1, G, N, E] of every layer whose first rows are those of `header`.
MemoryArtifact make_kv_artifact(const std::vector<KvPair>& kv, const Tokens& header, const Backbone& backbone,
                                const Tokenizer& tokenizer, const std::string& method);

/// An artifact as the memory the decoder reads, [1, N]: no head of its own, rows at positions 0..N-1.
Memory memory_of(const MemoryArtifact& artifact, const Backbone& backbone);

/// Keys and values that this base gives to tokens read from position 0 on, [1, G, T, E] a layer.
std::vector<KvPair> read_kv(const Backbone& backbone, const Tokens& tokens);

}  // namespace ctxc
