#include "data/chat_format.h"

namespace ctxc {

std::optional<ChatFormat> chat_format(const Tokenizer& tokenizer) {
  static const std::vector<ChatFormat> known = {
      {{"<|im_start|>", "<|im_end|>"}, "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"},
      {{"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"},
       "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
       "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"}};
  for (const ChatFormat& format : known) {
    bool complete = true;
    for (const std::string& token : format.tokens) complete = complete && tokenizer.find(token).has_value();
    if (complete) return format;
  }
  return std::nullopt;
}

}  // namespace ctxc
