// Text rules of the ComprExIT repository (comprexit.md sections 9 and 10), as named, tested steps.
#pragma once
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ctxc {

/// Without white space at both ends, as Python's str.strip(): ASCII, U+001C..1F, U+0085 and the Unicode
/// separators.
std::string_view strip_white_space(std::string_view text);

/// cleanup: mrqa_v1. [PAR], [TLE], [SEP] become layout; [DOC] and list and paragraph tags go; table tags
/// stay.
std::string clean_mrqa_context(std::string_view text);
/// A final question mark, then detokenised.
std::string clean_mrqa_question(std::string_view text);
/// Spaces that tokenisation put around punctuation are taken back, in the peer's order of replacements.
std::string detokenize_mrqa(std::string text);
/// Its replacements (from, to), in order.
const std::vector<std::pair<std::string_view, std::string_view>>& mrqa_detokenization();

/// answer_extractor: first_line. The first line that is not empty, stripped.
std::string extract_first_line(std::string_view text);
/// answer_extractor: first_sentence_dot. Cut at the first '.', then at the first newline ("U.S. Navy" becomes
/// "U").
std::string extract_first_sentence_dot(std::string_view text);

}  // namespace ctxc
