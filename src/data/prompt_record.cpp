#include "data/prompt_record.h"

#include "data/chat_format.h"

namespace ctxc {

OrderedJson prompt_record(const PromptConfig& prompt) {
  return {{"cleanup", prompt.cleanup},
          {"head", prompt.head},
          {"question_prefix", prompt.question_prefix},
          {"answer_prompt", prompt.answer_prompt},
          {"answer_prefix", prompt.answer_prefix},
          {"split_question", prompt.split_question},
          {"answer_extractor", prompt.answer_extractor}};
}

OrderedJson prompt_record(const Prompt& prompt) {
  OrderedJson record = prompt_record(prompt.config());
  record["turn_close"] = turn_close(prompt.config(), prompt.tokenizer());
  return record;
}

std::string turn_close(const PromptConfig& prompt, const Tokenizer& tokenizer) {
  if (prompt.head != "chat") return "";
  const std::optional<ChatFormat> format = chat_format(tokenizer);
  return format ? format->close : "";
}

PromptConfig recorded_prompt(const Json& info, const std::string& origin) {
  PromptConfig prompt;
  if (!info.contains("prompt")) return prompt;
  const Json record = json_at<Json>(info, "prompt", origin);
  prompt.cleanup = json_or<std::string>(record, "cleanup", prompt.cleanup, origin);
  prompt.head = json_or<std::string>(record, "head", prompt.head, origin);
  prompt.question_prefix = json_or<std::string>(record, "question_prefix", prompt.question_prefix, origin);
  prompt.answer_prompt = json_or<std::string>(record, "answer_prompt", prompt.answer_prompt, origin);
  prompt.answer_prefix = json_or<std::string>(record, "answer_prefix", prompt.answer_prefix, origin);
  prompt.split_question = json_or<bool>(record, "split_question", prompt.split_question, origin);
  prompt.answer_extractor = json_or<std::string>(record, "answer_extractor", prompt.answer_extractor, origin);
  return prompt;
}

}  // namespace ctxc
