// The best sentences of a passage for a question, by Okapi BM25 (Robertson and Zaragoza, "The Probabilistic
// Relevance Framework: BM25 and Beyond", 2009), the passage's sentences being the collection:
//   score(s) = sum_{w in question} idf(w) tf (k1 + 1) / (tf + k1 (1 - b + b |s| / mean |s|))
//   idf(w)   = ln(1 + (n - df + 1/2) / (df + 1/2)),   k1 = 1.2, b = 0.75
// Words are compared as the metric compares them (score.h). An extractive reference that, unlike a
// compressor, sees the question before it chooses.
#pragma once
#include <string_view>

#include "data/tokenizer.h"

namespace ctxc {

/// At most `budget` of the context's tokens: the best sentences in reading order, the least of them cut at
/// its end to fill the budget. Ties go to the earlier sentence.
Tokens best_sentences(const Tokenizer& tokenizer, const Tokens& context, std::string_view question,
                      int64_t budget);

}  // namespace ctxc
