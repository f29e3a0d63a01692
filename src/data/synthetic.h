// Generated question answering ("tiny facts"): passages of facts about several people, every fact asked once.
// The facts of the other people are the distractors. All names and values are single common words, so that a
// tiny vocabulary can hold each as one token (with its leading space: a passage opens with a lead-in, never
// with a name).
//
//   Notes: Anna lives in Rome. Anna works as a baker. Boris lives in Oslo. Boris works as a pilot.
//   easy      "Boris lives in"                          -> "Oslo"
//   question  "Where does Boris live? Boris lives in"   -> "Oslo"
//   mixed     several wordings of sentences and questions, sentences of all people shuffled, facts joined by
//   "and"
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/json.h"
#include "data/passage.h"

namespace ctxc {

/// Section `synthetic` of a data entry. A passage is a pure function of these keys and its index.
struct SyntheticConfig {
  int64_t count = 10000;
  int64_t seed = 0;
  std::string split = "train";
  int64_t people_min = 1, people_max = 3;
  int64_t facts_min = 2, facts_max = 3;
  bool shared_facts = false;
  int64_t filler = 0;
  std::string wording = "easy";
  void describe(Fields& f);
};

/// Passage `index` (>= 0). `train` and `valid` never share a set of facts, whatever the seeds: the hash of
/// the set decides to which of the two it belongs (one in eight is valid). Error kUsage if a minimum is above
/// its maximum.
Passage synthetic_passage(const SyntheticConfig& config, int64_t index);

/// Words that models/tiny-facts reads as one token each behind a space: 40 names, 32 places.
const std::vector<std::string>& synthetic_names();
const std::vector<std::string>& synthetic_places();

/// The same as a line of MRQA JSONL, with detected_answers.
OrderedJson synthetic_mrqa_line(const SyntheticConfig& config, int64_t index);

/// Writes `config.count` passages as MRQA JSONL with its header line. Error kDisk.
void write_synthetic_mrqa(const SyntheticConfig& config, const std::string& path);

}  // namespace ctxc
