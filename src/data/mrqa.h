// MRQA 2019 JSONL(.gz): an optional header line, then one context with its questions per line. Only context,
// qid, question and answers are read; tokens, spans and unknown keys are ignored.
#pragma once
#include "data/jsonl.h"

namespace ctxc {

/// Error kInput (file:line) where a needed key is missing or of the wrong type.
void read_mrqa(const std::string& path, ReadOptions& options, const PassageSink& sink);

}  // namespace ctxc
