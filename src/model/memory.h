// Memory: what the frozen decoder reads instead of the text.
#pragma once
#include <cstdint>
#include <vector>

#include "model/shapes.h"

namespace ctxc {

/// Keys (after RoPE) and values of one layer, [B, G, K, E].
struct KvPair {
  Tensor key_BGKE, value_BGKE;
};

/// Head (BOS or a chat header), then slots — or per-layer keys/values (`kv`, one pair a layer, slots
/// undefined) — and where they stand. Rows are padded to the same K; `mask_BK` says which slots are real.
struct Memory {
  Tensor head_ids_BP;      ///< int64, same head in every row; P may be 0
  Tensor slots_BKD;        ///< undefined if the method gives kv
  std::vector<KvPair> kv;  ///< empty if the method gives slots
  Tensor mask_BK;          ///< bool
  Tensor position_BK;      ///< int64; the head stands at 0..P-1 in any case
  Tensor next_position_B;  ///< int64; where the text after the memory goes on
  int64_t batch() const;
  int64_t slots() const;  ///< K, padded
};

/// Positions for slots that follow a head of `head` tokens without gaps: the i-th valid slot of a row stands
/// at head + i. Fills position_BK (masked slots get 0) and next_position_B from mask_BK.
void number_densely(Memory& memory, int64_t head);
/// The peer's training rule: masked slots keep their place; slot k stands at head + k, text goes on at head +
/// K.
void number_by_column(Memory& memory, int64_t head);

}  // namespace ctxc
