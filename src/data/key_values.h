// Generated key-value recall (diffusion.md section 13): pairs in a row, some keys written again with another
// value, of which the last one counts; then keys are asked for. Nothing but the binding of a value to its
// key, and the order of the pairs, can answer; the set of values alone gives about one in four.
//
//   pairs 3, value_tokens 1      " Anna Rome Boris Oslo Anna Lima"      " Anna" -> " Lima"
//   pairs 2, value_tokens 2      " Anna Rome Lima Boris Oslo Rome"      " Boris" -> " Oslo Rome"
//   lead 1                       " town Anna Rome Boris Oslo ..."       windows of two cut the pairs
//
// Every word is one token of models/tiny-facts, so a pair is 1 + value_tokens tokens. Questions and answers
// carry their own leading space: prefixes of the prompt have to be empty.
#pragma once
#include <cstdint>
#include <string>

#include "core/config.h"
#include "data/passage.h"

namespace ctxc {

/// Section `key_values` of a data entry. A passage is a pure function of these keys and its index.
struct KeyValuesConfig {
  int64_t count = 10000;
  int64_t seed = 0;
  std::string split = "train";
  int64_t pairs = 8, keys = 8, queries = 4;
  int64_t values = 32, value_tokens = 1;
  int64_t lead = 0;
  void describe(Fields& f);
};

/// Passage `index` (>= 0). `train` and `valid` never share a row of pairs, whatever the seeds and the lead:
/// the hash of the row decides to which of the two it belongs (one in eight is valid). Each question asks for
/// another key that the passage has; where it has fewer than `queries`, for all of them. A question's id ends
/// in `@depth=I/PAIRS`: I pairs stand before the one that answers it, so its age is PAIRS - 1 - I; records of
/// an evaluation carry the id. Error kUsage if there are not so many values of `value_tokens` tokens.
Passage key_values_passage(const KeyValuesConfig& config, int64_t index);

}  // namespace ctxc
