// `ctxc-eval score`: the official metric on a gold file and a predictions file, nothing else.
#pragma once
#include <string>

#include "core/cli.h"

namespace ctxc {

void add_eval_score(Subcommands& program);

struct FileScore {
  double exact_match = 0, f1 = 0;  ///< percent
  int64_t questions = 0;           ///< that count in the mean
};

/// Scores `predictions` (one JSON object {qid: text}) against `gold` (MRQA JSONL, SQuAD JSON or rows with a
/// qid and answers; plain or gzip, read row by row). A question without prediction counts 0, or is left out
/// with `skip_no_answer`; predictions for unknown questions are ignored. `per_question`: a JSONL file to
/// write ("" = none). Error kInput on broken files and if no question counts.
FileScore score_files(const std::string& gold, const std::string& predictions, bool skip_no_answer,
                      const std::string& per_question);

}  // namespace ctxc
