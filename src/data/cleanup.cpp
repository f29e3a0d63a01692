#include "data/cleanup.h"

#include "data/utf8.h"

namespace ctxc {
namespace {

bool is_python_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  size_t found = text.find(from);
  if (found == std::string::npos) return;
  std::string out;
  size_t done = 0;
  for (; found != std::string::npos; found = text.find(from, done)) {
    out.append(text, done, found - done).append(to);
    done = found + from.size();
  }
  text = out.append(text, done);
}

using Replacements = std::vector<std::pair<std::string_view, std::string_view>>;

void replace_in_order(std::string& text, const Replacements& replacements) {
  for (const auto& [from, to] : replacements) replace_all(text, from, to);
}

std::string_view before(std::string_view text, char end) {
  return text.substr(0, text.find(end));
}

}  // namespace

std::string_view strip_white_space(std::string_view text) {
  size_t begin = 0;
  while (begin < text.size()) {
    size_t next = begin;
    if (!is_python_space(next_code_point(text, next))) break;
    begin = next;
  }
  text.remove_prefix(begin);
  while (!text.empty()) {
    size_t last = previous_boundary(text, text.size());
    const size_t end = last;
    if (!is_python_space(next_code_point(text, last))) break;
    text = text.substr(0, end);
  }
  return text;
}

std::string clean_mrqa_context(std::string_view text) {
  std::string out(text);
  replace_in_order(out, {{"[PAR] ", "\n\n"}, {"[TLE]", "Title:"}, {"[SEP]", "\nPassage:"}});
  out = std::string(strip_white_space(out));
  replace_in_order(out, {{"<Li>", ""},
                         {"</Li>", ""},
                         {"<OI>", ""},
                         {"</OI>", ""},
                         {"<Ol>", ""},
                         {"</Ol>", ""},
                         {"<Dd>", ""},
                         {"</Dd>", ""},
                         {"<UI>", ""},
                         {"</UI>", ""},
                         {"<Ul>", ""},
                         {"</Ul>", ""},
                         {"<P>", ""},
                         {"</P>", ""},
                         {"[DOC]", ""}});
  return std::string(strip_white_space(out));
}

const Replacements& mrqa_detokenization() {
  static const Replacements replacements = {{" .", "."},     {" ?", "?"},     {" !", "!"},   {" ,", ","},
                                            {" ' ", "'"},    {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"},
                                            {" 've", "'ve"}, {" 're", "'re"}, {"( ", "("},   {" )", ")"},
                                            {" %", "%"},     {"`` ", "\""},   {" ''", "\""}, {" :", ":"}};
  return replacements;
}

std::string detokenize_mrqa(std::string text) {
  replace_in_order(text, mrqa_detokenization());
  return text;
}

std::string clean_mrqa_question(std::string_view text) {
  std::string out(strip_white_space(text));
  if (!out.ends_with('?')) out += '?';
  return detokenize_mrqa(std::move(out));
}

std::string extract_first_line(std::string_view text) {
  return std::string(strip_white_space(before(strip_white_space(text), '\n')));
}

std::string extract_first_sentence_dot(std::string_view text) {
  return std::string(strip_white_space(before(before(strip_white_space(text), '.'), '\n')));
}

}  // namespace ctxc
