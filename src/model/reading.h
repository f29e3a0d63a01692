// How the decoder reads texts after a memory: one packed row per memory, its head and slots read once for all
// texts
//   [head, valid slots, text 1, text 2, …]     every text attends to head, slots (or the memory's keys) and
//   itself
#pragma once
#include <vector>

#include "data/tokenizer.h"
#include "model/backbone.h"
#include "model/memory.h"

namespace ctxc {

/// Texts that go on after one row of a memory, each as if it stood there alone.
struct Continuations {
  int64_t row = 0;
  std::vector<Tokens> texts;
};

struct PackedReading {
  PackedRows rows;                          ///< one segment per Continuations
  std::vector<int64_t> start;               ///< packed index of the segment's first token
  std::vector<int64_t> prefix;              ///< tokens of head and slots; they stand first
  std::vector<std::vector<int64_t>> first;  ///< packed index of the first token of each text
};

/// Text token i stands at position next_position + i of its memory.
PackedReading pack_reading(const Backbone& backbone, const Memory& memory,
                           const std::vector<Continuations>& groups);

/// Appends the packed indices whose hidden states predict the `count` tokens after the first `prompt` ones of
/// a text (`text` of group `group`); the last of them need not stand there. Something must stand before the
/// first.
void append_predicting(const PackedReading& reading, size_t group, size_t text, size_t prompt, size_t count,
                       std::vector<int64_t>& indices);

}  // namespace ctxc
