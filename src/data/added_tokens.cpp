#include "data/added_tokens.h"

#include <unicode/uchar.h>

#include <algorithm>

#include "data/utf8.h"

namespace ctxc {
namespace {

// \w of Rust's regex crate, which decides about single_word.
bool is_word(char32_t c) {
  const auto code = static_cast<UChar32>(c);
  return u_hasBinaryProperty(code, UCHAR_ALPHABETIC) || u_hasBinaryProperty(code, UCHAR_JOIN_CONTROL) ||
         (U_GET_GC_MASK(code) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

bool ends_with_word(std::string_view text) {
  if (text.empty()) return false;
  size_t at = previous_boundary(text, text.size());
  return is_word(next_code_point(text, at));
}

bool starts_with_word(std::string_view text) {
  size_t at = 0;
  return !text.empty() && is_word(next_code_point(text, at));
}

/// Where the white space at the end of `text` begins.
size_t white_space_at_end(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t at = previous_boundary(text, end);
    const size_t begin = at;
    if (!u_isUWhiteSpace(static_cast<UChar32>(next_code_point(text, at)))) break;
    end = begin;
  }
  return end;
}

/// Bytes of white space at the beginning of `text`.
size_t white_space_at_start(std::string_view text) {
  size_t end = 0;
  while (end < text.size()) {
    size_t at = end;
    if (!u_isUWhiteSpace(static_cast<UChar32>(next_code_point(text, at)))) break;
    end = at;
  }
  return end;
}

}  // namespace

AddedTokens::AddedTokens(const std::vector<AddedToken>& tokens) : nodes_(1) {
  for (const AddedToken& token : tokens) {
    if (token.content.empty()) continue;  // would match everywhere; the tokenizers library drops it, too
    begins_[static_cast<unsigned char>(token.content[0])] = true;
    insert(token.content, static_cast<int>(tokens_.size()));
    tokens_.push_back(token);
  }
}

void AddedTokens::insert(const std::string& content, int token) {
  int node = 0;
  for (const char c : content) {
    const auto byte = static_cast<unsigned char>(c);
    int next = nodes_[node].child;
    while (next >= 0 && nodes_[next].byte != byte) next = nodes_[next].sibling;
    if (next < 0) {
      next = static_cast<int>(nodes_.size());
      nodes_.push_back({byte, -1, nodes_[node].child, -1});
      nodes_[node].child = next;
    }
    node = next;
  }
  nodes_[node].token = token;
}

int AddedTokens::longest_at(std::string_view text, size_t position) const {
  int node = 0, best = -1;
  for (size_t i = position; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    node = nodes_[node].child;
    while (node >= 0 && nodes_[node].byte != byte) node = nodes_[node].sibling;
    if (node < 0) break;
    if (nodes_[node].token >= 0) best = nodes_[node].token;
  }
  return best;
}

void AddedTokens::split(std::string_view text, std::vector<Piece>& pieces) const {
  size_t done = 0;
  for (size_t i = 0; i < text.size();) {
    const int found = begins_[static_cast<unsigned char>(text[i])] ? longest_at(text, i) : -1;
    if (found < 0) {
      ++i;
      continue;
    }
    const AddedToken& token = tokens_[found];
    size_t begin = i, end = i + token.content.size();
    i = end;
    if (token.single_word && (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end))))
      continue;
    if (token.lstrip) begin = std::max(white_space_at_end(text.substr(0, begin)), done);
    if (token.rstrip) end += white_space_at_start(text.substr(end));
    if (begin > done) pieces.push_back({text.substr(done, begin - done), kText});
    pieces.push_back({text.substr(begin, end - begin), token.id});
    done = end;
    i = std::max(i, end);
  }
  if (done < text.size()) pieces.push_back({text.substr(done), kText});
}

}  // namespace ctxc
