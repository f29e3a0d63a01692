// Byte-level BPE (GPT-2, Llama-3, SmolLM2) from tokenizer.json or from GGUF metadata; token for token equal
// to the Python `tokenizers` package. Invalid UTF-8 is replaced by U+FFFD first, as Python does on decoding
// with errors="replace".
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ctxc {

using TokenId = int32_t;
using Tokens = std::vector<TokenId>;

class Tokenizer {
 public:
  /// A Hugging Face folder (tokenizer.json, and tokenizer_config.json / special_tokens_map.json /
  /// generation_config.json for the roles of the special tokens), a tokenizer.json, or a GGUF file. Error
  /// kInput.
  static Tokenizer load(const std::string& path);

  /// Token ids of `text`. Strings of special and added tokens inside the text are recognised (as Python
  /// does). `add_special`: what the post-processor adds (Llama-3: BOS in front).
  Tokens encode(std::string_view text, bool add_special = false) const;
  /// Bytes of the tokens joined; invalid UTF-8 that a cut leaves is replaced by U+FFFD. Error kInput on
  /// unknown ids.
  std::string decode(std::span<const TokenId> ids, bool skip_special = true) const;
  /// One token as people read it ("Ġthe" -> " the").
  std::string piece(TokenId id) const;

  int64_t vocab_size() const;  ///< highest id + 1
  std::optional<TokenId> bos() const;
  std::optional<TokenId> eos() const;
  std::optional<TokenId> pad() const;                         ///< none: callers fall back to eos
  std::optional<TokenId> find(std::string_view token) const;  ///< exact vocabulary or added-token string
  bool is_special(TokenId id) const;
  bool contains(TokenId id) const;  ///< a model may have more rows than the tokenizer has tokens
  /// Chat template (Jinja text) if the files have one, else "".
  const std::string& chat_template() const;
  /// SHA-256 of a canonical dump of vocabulary, merges and special tokens: equal for the HF and GGUF form of
  /// a tokenizer.
  std::string fingerprint() const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace ctxc
