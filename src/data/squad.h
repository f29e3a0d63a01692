// SQuAD JSON (v1.1 and v2, plain or gzip): {"data": [{"paragraphs": [{"context", "qas": [{"id", "question",
// "answers":
// [{"text"}]}]}]}]}. Unanswerable questions (v2) have no answers.
#pragma once
#include "data/jsonl.h"

namespace ctxc {

/// Error kInput; a broken entry names its paragraph ("file: data[3].paragraphs[0]").
void read_squad(const std::string& path, ReadOptions& options, const PassageSink& sink);

}  // namespace ctxc
