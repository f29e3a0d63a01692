#include "eval/bm25.h"

#include <unicode/brkiter.h>
#include <unicode/unistr.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <set>

#include "core/error.h"
#include "core/text.h"
#include "eval/score.h"

namespace ctxc {
namespace {

constexpr double kSaturation = 1.2, kLengthShare = 0.75;  // k1, b

/// Tokens [begin, end) and their words with counts.
struct Sentence {
  size_t begin = 0, end = 0;
  std::map<std::string, double> words;
  double length = 0;
};

/// Sentences by Unicode's rules (UAX 29). A token that crosses a boundary belongs to the sentence it begins
/// in.
std::vector<Sentence> sentences_of(const Tokenizer& tokenizer, const Tokens& context) {
  icu::UnicodeString text;
  std::vector<int32_t> end;  // of each token, in code units
  for (const TokenId id : context) {
    text += icu::UnicodeString::fromUTF8(tokenizer.decode(std::span(&id, 1), /*skip_special=*/false));
    end.push_back(text.length());
  }
  UErrorCode status = U_ZERO_ERROR;
  const std::unique_ptr<icu::BreakIterator> breaks(
      icu::BreakIterator::createSentenceInstance(icu::Locale::getRoot(), status));
  CTXC_CHECK(U_SUCCESS(status), ErrorKind::kInternal, "install ICU's data",
             "ICU has no rules for sentences (found {})", u_errorName(status));
  breaks->setText(text);
  std::vector<Sentence> sentences;
  int32_t from = breaks->first();
  for (int32_t to = breaks->next(); to != icu::BreakIterator::DONE; from = to, to = breaks->next()) {
    Sentence sentence;
    sentence.begin = static_cast<size_t>(std::upper_bound(end.begin(), end.end(), from) - end.begin());
    sentence.end = static_cast<size_t>(std::upper_bound(end.begin(), end.end(), to) - end.begin());
    if (sentence.begin == sentence.end) continue;
    std::string words;
    text.tempSubStringBetween(from, to).toUTF8String(words);
    for (const std::string& word : split(normalize_answer(words), ' ')) {
      ++sentence.words[word];
      ++sentence.length;
    }
    sentences.push_back(std::move(sentence));
  }
  return sentences;
}

std::vector<double> bm25(const std::vector<Sentence>& sentences, std::string_view question) {
  const auto count = static_cast<double>(sentences.size());
  double mean = 0;
  for (const Sentence& sentence : sentences) mean += sentence.length / count;
  std::vector<double> scores(sentences.size(), 0);
  const std::vector<std::string> asked = split(normalize_answer(question), ' ');
  for (const std::string& word : std::set<std::string>(asked.begin(), asked.end())) {
    const auto holders = static_cast<double>(std::count_if(
        sentences.begin(), sentences.end(), [&](const Sentence& s) { return s.words.contains(word); }));
    const double weight = std::log1p((count - holders + 0.5) / (holders + 0.5));
    for (size_t i = 0; i < sentences.size(); ++i) {
      const auto found = sentences[i].words.find(word);
      if (found == sentences[i].words.end()) continue;
      const double norm = 1 - kLengthShare + kLengthShare * sentences[i].length / mean;
      scores[i] += weight * found->second * (kSaturation + 1) / (found->second + kSaturation * norm);
    }
  }
  return scores;
}

}  // namespace

Tokens best_sentences(const Tokenizer& tokenizer, const Tokens& context, std::string_view question,
                      int64_t budget) {
  std::vector<Sentence> sentences = sentences_of(tokenizer, context);
  const std::vector<double> scores = bm25(sentences, question);
  std::vector<size_t> order(sentences.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  auto left = static_cast<size_t>(std::max<int64_t>(budget, 0));
  std::vector<size_t> kept;
  for (const size_t i : order) {
    if (left == 0) break;
    Sentence& sentence = sentences[i];
    sentence.end = std::min(sentence.end, sentence.begin + left);
    left -= sentence.end - sentence.begin;
    kept.push_back(i);
  }
  std::sort(kept.begin(), kept.end());
  Tokens chosen;
  for (const size_t i : kept)
    chosen.insert(chosen.end(), context.begin() + static_cast<std::ptrdiff_t>(sentences[i].begin),
                  context.begin() + static_cast<std::ptrdiff_t>(sentences[i].end));
  return chosen;
}

}  // namespace ctxc
