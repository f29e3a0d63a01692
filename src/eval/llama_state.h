// Sequence-state files of llama.cpp (export-formats.md section 6.2): the keys and values of one sequence as
// llama_state_seq_load_file and the slot restore of llama-server read them. Little-endian, packed:
//   u32 'ggsq'  u32 version  u32 n_tokens  i32 tokens[n_tokens]
//   u32 n_stream  u32 cells (N)  N x {i32 pos, u32 n_seq (1), i32 seq (0)}  u32 v_trans  u32 layers
//   version 4: u32 0, u32 0
//   per layer: i32 type, u64 row bytes, N rows of G E keys;   then the values: the same,
//   or, transposed (v_trans = 1, flash attention off): i32 type, u32 element bytes, u32 G E, G E rows of N
//   u32 0 for each further stream: a server with several slots has one a slot, or one for all (--kv-unified);
//   the sequence may stand in any of them, and is read into the one of the slot that asks
// Channels of a key are interleaved there: (x0, xE/2, x1, xE/2+1, …) of every head; values are as they are.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "model/shapes.h"

namespace ctxc {

struct LlamaStateForm {
  int64_t version = 4;
  bool transposed = false;  ///< values; true where flash attention is off
  at::ScalarType key_type = at::kHalf, value_type = at::kHalf;
  int32_t placeholder = 0;  ///< id of every row: a label only
  int64_t streams = 1;      ///< of the program that reads it
};

struct LlamaState {
  LlamaStateForm form;
  std::vector<int32_t>
      tokens;             ///< ids alone, also where a server saved them wrapped (-1, 1, count, ids, media)
  Tensor k_LGNE, v_LGNE;  ///< rotate-half channel order, in the file's types
};

/// The bytes of such a file. Error kUsage for a version or type that llama.cpp does not have.
std::string write_llama_state(const Tensor& k_LGNE, const Tensor& v_LGNE, const LlamaStateForm& form);
/// Error kInput on anything else, or on another number of key/value channels than groups * width.
LlamaState read_llama_state(const std::string& path, int64_t groups, int64_t width);

}  // namespace ctxc
