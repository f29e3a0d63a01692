// Added tokens (special tokens among them): found in the text before anything else is done with it, as the
// tokenizers library does: leftmost, then longest.
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer_spec.h"

namespace ctxc {

class AddedTokens {
 public:
  explicit AddedTokens(const std::vector<AddedToken>& tokens);

  struct Piece {
    std::string_view text;
    TokenId id;  ///< kText: text between added tokens
  };
  static constexpr TokenId kText = -1;

  bool empty() const { return tokens_.empty(); }
  /// Appends the pieces of `text` in order; `text` must be well-formed UTF-8.
  void split(std::string_view text, std::vector<Piece>& pieces) const;

 private:
  struct Node {
    unsigned char byte = 0;
    int child = -1, sibling = -1, token = -1;
  };
  void insert(const std::string& content, int token);
  int longest_at(std::string_view text, size_t position) const;  ///< index into tokens_, or -1

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  bool begins_[256] = {};
};

}  // namespace ctxc
