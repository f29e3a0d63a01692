// What the readers of tokenizer.json and of GGUF metadata hand to the tokenizer.
#pragma once
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "data/pretokenizer.h"
#include "data/tokenizer.h"

namespace ctxc {

struct AddedToken {
  std::string content;
  TokenId id = 0;
  bool special = false;      ///< left out by decode(skip_special)
  bool single_word = false;  ///< only between characters that are no word characters
  bool lstrip = false;       ///< swallows white space on its left
  bool rstrip = false;
  bool normalized = false;  ///< looked for after normalisation, and after the others
};

struct TokenizerSpec {
  std::string origin;                                       ///< file, for messages
  std::unordered_map<std::string, TokenId> vocabulary;      ///< spelled in the byte alphabet
  std::vector<std::pair<std::string, std::string>> merges;  ///< best first
  std::vector<AddedToken> added;
  std::vector<SplitStep> steps;
  bool nfc = false;            ///< normalise to NFC first
  bool ignore_merges = false;  ///< a word that is a token is not built from merges
  std::optional<TokenId>
      unknown;            ///< for bytes that no token stands for; without it they vanish, as in Python
  Tokens prefix, suffix;  ///< what encode(add_special) puts around the text
  std::optional<TokenId> bos, eos, pad;
  std::string chat_template;
};

/// Ids beyond this are taken for damage.
constexpr int64_t kMaxTokenId = (1 << 24) - 1;

/// `folder` holds tokenizer.json; the files beside it say which tokens are BOS, EOS and padding. Error
/// kInput.
TokenizerSpec read_tokenizer_json(const std::string& folder);
/// Metadata tokenizer.ggml.* of a GGUF file. Error kInput.
TokenizerSpec read_tokenizer_gguf(const std::string& path);

}  // namespace ctxc
