// The texts of data.contexts.
#pragma once
#include <string>
#include <vector>

#include "data/passage.h"
#include "train/run_config.h"

namespace ctxc {

struct ContextText {
  std::string id;                        ///< unique, fit for a file name
  std::string text;                      ///< UTF-8
  std::vector<Question> questions = {};  ///< never seen by a compile: ctxc-run measure asks them
  std::string continuation = {};         ///< the text behind it, never seen either
};
/// Entries of data.contexts: a file is a context, a JSONL(.gz) file holds one a line (`text` or `context`,
/// and `id`, MRQA's `qas` and `continuation` if it likes); `-` is standard input. Error kInput (missing or
/// empty text) and kUsage (no entry).
std::vector<ContextText> read_contexts(const RunConfig& config);

}  // namespace ctxc
