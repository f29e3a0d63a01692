// Cuts text into the words that byte-pair merges may not cross: the pre-tokenizers Sequence, Split, Digits
// and ByteLevel of tokenizer.json, flattened into steps that each cut the pieces of the one before.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/regex.h"

namespace ctxc {

/// What becomes of the matches of a pattern (tokenizers' SplitDelimiterBehavior).
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct SplitStep {
  std::string pattern;  ///< empty: this step cuts nothing
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;        ///< what lies between the matches counts as the matches
  bool prefix_space = false;  ///< first put a space in front of pieces that have none
};

/// GPT-2's pattern, which ByteLevel(use_regex) applies.
extern const char* const kGpt2Pattern;
/// Llama 3's pattern.
extern const char* const kLlama3Pattern;

class Pretokenizer {
 public:
  Pretokenizer(const std::vector<SplitStep>& steps, const std::string& origin);

  /// Calls emit(word) for every word, in order. `text` must be well-formed UTF-8; words do not outlive the
  /// call.
  template <class Emit>
  void split(std::string_view text, Regex::Scratch& scratch, Emit&& emit) const {
    run(text, 0, scratch, emit);
  }

 private:
  struct Step {
    SplitStep rule;
    std::vector<Regex> regex;  ///< none or one
  };
  using Range = std::pair<size_t, size_t>;

  /// Pieces of `text` for behaviours other than a plain kIsolated.
  static std::vector<Range> ranges(const Step& step, std::string_view text, Regex::Scratch& scratch);

  /// Calls found(begin, end) for the matches from left to right; empty ones (which cut, too) move on by a
  /// character.
  template <class Found>
  static void for_each_match(const Regex& regex, std::string_view text, Regex::Scratch& scratch,
                             Found&& found);

  template <class Emit>
  void run(std::string_view text, size_t level, Regex::Scratch& scratch, Emit& emit) const;

  std::vector<Step> steps_;
};

template <class Found>
void Pretokenizer::for_each_match(const Regex& regex, std::string_view text, Regex::Scratch& scratch,
                                  Found&& found) {
  size_t from = 0, begin, end;
  while (from <= text.size() && regex.search(text, from, begin, end, scratch)) {
    found(begin, end);
    from = end;
    if (begin != end) continue;
    do ++from;
    while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80);
  }
}

template <class Emit>
void Pretokenizer::run(std::string_view text, size_t level, Regex::Scratch& scratch, Emit& emit) const {
  if (text.empty()) return;
  if (level == steps_.size()) return emit(text);
  const Step& step = steps_[level];
  std::string spaced;
  if (step.rule.prefix_space && text.front() != ' ') {
    spaced.assign(1, ' ').append(text);
    text = spaced;
  }
  if (step.regex.empty()) return run(text, level + 1, scratch, emit);
  if (step.rule.behavior != SplitBehavior::kIsolated) {
    for (const auto& [begin, end] : ranges(step, text, scratch))
      run(text.substr(begin, end - begin), level + 1, scratch, emit);
    return;
  }
  size_t done = 0;
  for_each_match(step.regex[0], text, scratch, [&](size_t begin, size_t end) {
    run(text.substr(done, begin - done), level + 1, scratch, emit);
    run(text.substr(begin, end - begin), level + 1, scratch, emit);
    done = end;
  });
  run(text.substr(done), level + 1, scratch, emit);
}

}  // namespace ctxc
