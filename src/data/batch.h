// What the model layer gets to see of the data: token ids, grouped by context.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/random.h"
#include "data/tokenizer.h"

namespace ctxc {

/// One question (or continuation) that is read after the compressed context.
struct Query {
  Tokens prompt;         ///< read, not supervised ("Question: … Answer:"); empty for continuations
  Tokens target;         ///< supervised: answer + EOS (empty where it is to be given), or continuation
  std::string id;        ///< qid
  std::string question;  ///< text, for records and samples
  std::vector<std::string> answers;  ///< every accepted answer, for scoring
};

/// A context with all its queries: the context is encoded once.
struct Example {
  Tokens context;
  std::vector<Query> queries;
  std::string id;
  int64_t source_tokens = 0;  ///< context tokens before truncation
};

/// One micro-batch.
struct Batch {
  StepKey key;
  std::vector<Example> examples;
  /// Columns of the padded context grid (parity: fixed T). 0 = the longest context of the batch.
  int64_t padded_length = 0;

  int64_t context_tokens() const;
  int64_t query_tokens() const;  ///< prompts and targets
  int64_t supervised_tokens() const;
  int64_t queries() const;
};

}  // namespace ctxc
