#include "data/pretokenizer.h"

#include <algorithm>

namespace ctxc {

const char* const kGpt2Pattern = R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
const char* const kLlama3Pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

Pretokenizer::Pretokenizer(const std::vector<SplitStep>& steps, const std::string& origin) {
  for (const SplitStep& rule : steps) {
    Step step{rule, {}};
    if (!rule.pattern.empty()) step.regex.emplace_back(rule.pattern, origin);
    steps_.push_back(std::move(step));
  }
}

// Follows NormalizedString::split of the tokenizers library: first matches and gaps in order, then the
// behaviour.
std::vector<Pretokenizer::Range> Pretokenizer::ranges(const Step& step, std::string_view text,
                                                      Regex::Scratch& scratch) {
  struct Piece {
    Range range;
    bool match;
  };
  std::vector<Piece> pieces;
  size_t done = 0;
  for_each_match(step.regex[0], text, scratch, [&](size_t begin, size_t end) {
    if (begin > done) pieces.push_back({{done, begin}, step.rule.invert});
    pieces.push_back({{begin, end}, !step.rule.invert});
    done = end;
  });
  if (done < text.size()) pieces.push_back({{done, text.size()}, step.rule.invert});

  std::vector<Range> out;
  const SplitBehavior behavior = step.rule.behavior;
  const bool backwards = behavior == SplitBehavior::kMergedWithNext;
  if (backwards) std::reverse(pieces.begin(), pieces.end());
  bool previous_match = false, first = true;
  for (const Piece& piece : pieces) {
    bool merge = false;
    switch (behavior) {
      case SplitBehavior::kRemoved:
        if (piece.match) continue;
        break;
      case SplitBehavior::kIsolated:
        break;
      case SplitBehavior::kContiguous:
        merge = !first && piece.match == previous_match;
        break;
      case SplitBehavior::kMergedWithPrevious:
      case SplitBehavior::kMergedWithNext:
        merge = piece.match && !previous_match && !out.empty();
        break;
    }
    if (!merge)
      out.push_back(piece.range);
    else if (backwards)
      out.back().first = piece.range.first;
    else
      out.back().second = piece.range.second;
    previous_match = piece.match;
    first = false;
  }
  if (backwards) std::reverse(out.begin(), out.end());
  return out;
}

}  // namespace ctxc
