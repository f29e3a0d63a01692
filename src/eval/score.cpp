#include "eval/score.h"

#include <unicode/locid.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <map>
#include <unordered_map>

#include "core/error.h"
#include "core/random.h"
#include "core/text.h"

namespace ctxc {
namespace {

bool is_ascii_punctuation(UChar32 c) {
  return (c >= 0x21 && c <= 0x2F) || (c >= 0x3A && c <= 0x40) || (c >= 0x5B && c <= 0x60) ||
         (c >= 0x7B && c <= 0x7E);
}

/// What Python's str.split() splits on.
bool is_space(UChar32 c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

/// What Python's \w matches, without the underscore (deleted before): letters and everything numeric.
bool is_word(UChar32 c) {
  return u_isalpha(c) || u_getIntPropertyValue(c, UCHAR_NUMERIC_TYPE) != U_NT_NONE;
}

bool is_article(const icu::UnicodeString& word) {
  return word == u"a" || word == u"an" || word == u"the";
}

/// Appends `run` (a maximal run of word characters) unless it is an article, which becomes a space.
void flush(icu::UnicodeString& run, icu::UnicodeString& out) {
  if (is_article(run))
    out.append(u' ');
  else
    out.append(run);
  run.remove();
}

icu::UnicodeString without_articles(const icu::UnicodeString& text) {
  icu::UnicodeString out, run;
  for (int32_t i = 0; i < text.length(); i = text.moveIndex32(i, 1)) {
    const UChar32 c = text.char32At(i);
    if (is_ascii_punctuation(c)) continue;
    if (is_word(c)) {
      run.append(c);
    } else {
      flush(run, out);
      out.append(c);
    }
  }
  flush(run, out);
  return out;
}

std::vector<std::string> words_of(const std::string& normalized) {
  return split(normalized, ' ');
}

double f1_of(const std::vector<std::string>& prediction, const std::vector<std::string>& answer) {
  std::unordered_map<std::string_view, int64_t> left;
  for (const std::string& word : answer) ++left[word];
  int64_t overlap = 0;
  for (const std::string& word : prediction) {
    const auto found = left.find(word);
    if (found != left.end() && found->second-- > 0) ++overlap;
  }
  if (overlap == 0) return 0;
  const double precision = static_cast<double>(overlap) / static_cast<double>(prediction.size());
  const double recall = static_cast<double>(overlap) / static_cast<double>(answer.size());
  return 2 * precision * recall / (precision + recall);
}

/// Sums of the questions of one context.
struct Cluster {
  Score sum;
  int64_t questions = 0;
};

Score plus(const Score& a, const Score& b) {
  return {a.exact_match + b.exact_match, a.f1 + b.f1, a.nll + b.nll};
}

/// The mean, exact match and F1 in percent.
Score mean_of(const Cluster& cluster) {
  const double count = static_cast<double>(cluster.questions);
  return {100 * cluster.sum.exact_match / count, 100 * cluster.sum.f1 / count, cluster.sum.nll / count};
}

std::vector<Cluster> clusters_of(std::span<const ScoredQuestion> questions) {
  std::map<int64_t, Cluster> by_context;
  for (const ScoredQuestion& question : questions) {
    Cluster& cluster = by_context[question.context];
    cluster.sum = plus(cluster.sum, question.score);
    ++cluster.questions;
  }
  std::vector<Cluster> result;
  for (const auto& [context, cluster] : by_context) result.push_back(cluster);
  return result;
}

/// The means of every resample of the clusters.
struct Resamples {
  std::vector<double> exact_match, f1, nll;
};

Resamples resample(const std::vector<Cluster>& clusters, int64_t count, uint64_t seed) {
  Resamples result;
  for (int64_t i = 0; i < count; ++i) {
    CounterRng rng(seed, "bootstrap", 0, static_cast<uint64_t>(i));
    Cluster total;
    for (size_t k = 0; k < clusters.size(); ++k) {
      const Cluster& drawn = clusters[rng.below(clusters.size())];
      total.sum = plus(total.sum, drawn.sum);
      total.questions += drawn.questions;
    }
    const Score mean = mean_of(total);
    result.exact_match.push_back(mean.exact_match);
    result.f1.push_back(mean.f1);
    result.nll.push_back(mean.nll);
  }
  return result;
}

/// The value below which `share` of the sorted values lie, interpolated.
double quantile(const std::vector<double>& sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(at), above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

Interval interval_95(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  return {quantile(values, 0.025), quantile(values, 0.975)};
}

/// (r + 1) / (n + 1) on either side (Davison and Hinkley, 1997, section 4.2): n resamples cannot show a p of
/// 0.
double two_sided_p(const std::vector<double>& differences) {
  if (differences.empty()) return 1;
  const auto below = std::count_if(differences.begin(), differences.end(), [](double d) { return d <= 0; });
  const auto above = std::count_if(differences.begin(), differences.end(), [](double d) { return d >= 0; });
  const double smaller = static_cast<double>(std::min(below, above)) + 1;
  return std::min(1.0, 2 * smaller / static_cast<double>(differences.size() + 1));
}

Score mean_of(std::span<const ScoredQuestion> questions) {
  Cluster all;
  for (const ScoredQuestion& question : questions) all.sum = plus(all.sum, question.score);
  all.questions = static_cast<int64_t>(questions.size());
  return mean_of(all);
}

}  // namespace

std::string normalize_answer(std::string_view text) {
  icu::UnicodeString lower =
      icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
  lower.toLower(icu::Locale::getRoot());
  const icu::UnicodeString bare = without_articles(lower);
  icu::UnicodeString joined;
  bool gap = false;
  for (int32_t i = 0; i < bare.length(); i = bare.moveIndex32(i, 1)) {
    const UChar32 c = bare.char32At(i);
    if (is_space(c)) {
      gap = true;
      continue;
    }
    if (gap && !joined.isEmpty()) joined.append(u' ');
    gap = false;
    joined.append(c);
  }
  std::string result;
  joined.toUTF8String(result);
  return result;
}

Score score_answer(std::string_view prediction, const std::vector<std::string>& answers) {
  const std::string normalized = normalize_answer(prediction);
  const auto words = words_of(normalized);
  Score best;
  for (const std::string& answer : answers) {
    const std::string gold = normalize_answer(answer);
    if (gold == normalized) best.exact_match = 1;
    best.f1 = std::max(best.f1, f1_of(words, words_of(gold)));
  }
  return best;
}

ScoreSummary summarize_scores(std::span<const ScoredQuestion> questions, int64_t resamples, uint64_t seed) {
  CTXC_CHECK(!questions.empty(), ErrorKind::kInput, "", "scores: there is no question to score");
  const auto clusters = clusters_of(questions);
  const Resamples drawn = resample(clusters, resamples, seed);
  const Score mean = mean_of(questions);
  return {mean.exact_match,
          mean.f1,
          mean.nll,
          interval_95(drawn.exact_match),
          interval_95(drawn.f1),
          interval_95(drawn.nll),
          static_cast<int64_t>(questions.size()),
          static_cast<int64_t>(clusters.size())};
}

PairedDifference compare_scores(std::span<const ScoredQuestion> first, std::span<const ScoredQuestion> second,
                                int64_t resamples, uint64_t seed) {
  CTXC_CHECK(first.size() == second.size() && !first.empty(), ErrorKind::kInternal, "",
             "compare_scores: both need the same questions, at least one (found {} and {})", first.size(),
             second.size());
  std::vector<ScoredQuestion> difference(first.begin(), first.end());
  for (size_t i = 0; i < difference.size(); ++i) {
    CTXC_CHECK(first[i].context == second[i].context, ErrorKind::kInternal, "",
               "compare_scores: question {} belongs to different contexts (found {} and {})", i,
               first[i].context, second[i].context);
    const Score &before = first[i].score, &after = second[i].score;
    difference[i].score = {after.exact_match - before.exact_match, after.f1 - before.f1,
                           after.nll - before.nll};
  }
  const Resamples drawn = resample(clusters_of(difference), resamples, seed);
  const Score mean = mean_of(difference);
  return {mean.exact_match,
          mean.f1,
          mean.nll,
          interval_95(drawn.exact_match),
          interval_95(drawn.f1),
          interval_95(drawn.nll),
          two_sided_p(drawn.exact_match),
          two_sided_p(drawn.f1),
          two_sided_p(drawn.nll)};
}

Score macro_mean(std::span<const ScoreSummary> sets) {
  Score sum;
  for (const ScoreSummary& set : sets) {
    sum.exact_match += set.exact_match;
    sum.f1 += set.f1;
    sum.nll += set.nll;
  }
  if (sets.empty()) return sum;
  const double count = static_cast<double>(sets.size());
  return {sum.exact_match / count, sum.f1 / count, sum.nll / count};
}

}  // namespace ctxc
