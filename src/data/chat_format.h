// The chat formats that ctxc knows, by the special tokens they consist of.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace ctxc {

struct ChatFormat {
  std::vector<std::string> tokens;  ///< all of them must be in the vocabulary
  std::string open, close;          ///< of a user's turn; `close` opens the assistant's as well
};

/// The format whose tokens this tokenizer has (ChatML, Llama 3), if it is one of them.
std::optional<ChatFormat> chat_format(const Tokenizer& tokenizer);

}  // namespace ctxc
