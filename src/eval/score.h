// The MRQA / SQuAD v1.1 metric (data.md section 2) and what can be said about its uncertainty.
//   normalize: lower-case (Unicode), delete ASCII punctuation, replace the words a/an/the by a space, join on
//   white space EM(p, g) = [normalize(p) == normalize(g)];  F1(p, g) = harmonic mean of the multiset overlap
//   of words over |p| and |g| a question's score is the maximum over its answers (EM and F1 apart); a set's
//   score is the mean over its questions
// Both sides empty after normalisation: EM 1 but F1 0, as in the official script.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ctxc {

std::string normalize_answer(std::string_view text);

/// Exact match and F1 are fractions in [0, 1]; `nll` is the mean of -log p over the tokens of the first
/// accepted answer, in nats (0 where it was not asked for).
struct Score {
  double exact_match = 0, f1 = 0, nll = 0;
};

/// Best score of `prediction` over the accepted answers; 0 if there are none.
Score score_answer(std::string_view prediction, const std::vector<std::string>& answers);

/// A question's score and the context it belongs to: questions about one context are not independent.
struct ScoredQuestion {
  Score score;
  int64_t context = 0;
};

struct Interval {
  double low = 0, high = 0;
};

/// Percent; nll in nats.
struct ScoreSummary {
  double exact_match = 0, f1 = 0, nll = 0;
  Interval exact_match_95, f1_95, nll_95;
  int64_t questions = 0, contexts = 0;
};

/// Means over the questions, with 95 % percentile intervals of a bootstrap that draws contexts with
/// replacement. Error kInput if there is no question.
ScoreSummary summarize_scores(std::span<const ScoredQuestion> questions, int64_t resamples = 1000,
                              uint64_t seed = 0);

/// Percent points (nll: nats): second minus first, over the same questions.
struct PairedDifference {
  double exact_match = 0, f1 = 0, nll = 0;
  Interval exact_match_95, f1_95, nll_95;
  double exact_match_p = 1, f1_p = 1,
         nll_p = 1;  ///< two-sided, from the resamples on either side of 0; at least 2 / (resamples + 1)
};

/// Paired bootstrap over contexts. Error kInternal unless both lists hold the same questions in the same
/// order.
PairedDifference compare_scores(std::span<const ScoredQuestion> first, std::span<const ScoredQuestion> second,
                                int64_t resamples = 1000, uint64_t seed = 0);

/// Unweighted mean over sets: what the shared task ranks by. 0 for none.
Score macro_mean(std::span<const ScoreSummary> sets);

}  // namespace ctxc
