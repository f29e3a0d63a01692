// Plain question-answering JSONL(.gz): one question per row, {"context", "question", "answers", optional
// "id"}. Rows in sequence with the same context become one passage, so that it is encoded once.
#pragma once
#include "data/jsonl.h"

namespace ctxc {

struct QaColumns {
  std::string context = "context", question = "question", answers = "answers";
};

/// Error kInput (file:line) where a column is missing or of the wrong type.
void read_qa_jsonl(const std::string& path, const QaColumns& columns, ReadOptions& options,
                   const PassageSink& sink);

}  // namespace ctxc
