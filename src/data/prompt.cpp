#include "data/prompt.h"

#include "core/error.h"
#include "core/text.h"
#include "data/chat_format.h"
#include "data/cleanup.h"
#include "data/utf8.h"

namespace ctxc {
namespace {

void append(Tokens& out, const Tokens& more) {
  out.insert(out.end(), more.begin(), more.end());
}

}  // namespace

void PromptConfig::describe(Fields& f) {
  f("cleanup", cleanup,
    "mrqa_v1: undo MRQA's markers and spaces and end questions with '?'; none: take texts as they are")
      .one_of({"none", "mrqa_v1"});
  f("question_prefix", question_prefix, "in front of every question, byte for byte");
  f("answer_prompt", answer_prompt, "behind every question, byte for byte");
  f("answer_prefix", answer_prefix, "in front of every answer, e.g. \" \"");
  f("context_bos", context_bos, "BOS inside the context (peer's evaluation: true, its training: false)");
  f("split_question", split_question, "tokenise question and answer prompt apart (peer's evaluation: true)");
  f("head", head,
    "what the decoder reads before the slots; chat: the opening of a user's turn, which every query closes; "
    "auto: chat where the tokenizer has a chat format that ctxc knows, else bos")
      .one_of({"bos", "none", "chat", "auto"});
  f("answer_extractor", answer_extractor,
    "what of the generated text is scored or shown; first_sentence_dot (the peer's) cuts at the first '.' as "
    "well")
      .one_of({"first_line", "first_sentence_dot", "whole"});
  f("shots", shots, "solved examples in front, for untrained references").min(0).max(64);
}

Prompt::Prompt(PromptConfig config, Tokenizer tokenizer)
    : config_(std::move(config)), tokenizer_(std::move(tokenizer)) {
  CTXC_CHECK(tokenizer_.eos(), ErrorKind::kInput, "name it as eos_token in tokenizer_config.json",
             "prompt: the tokenizer names no end-of-text token");
  if (config_.head == "chat" || config_.head == "auto") {
    const std::optional<ChatFormat> format = chat_format(tokenizer_);
    CTXC_CHECK(format || config_.head == "auto", ErrorKind::kInput,
               "set prompt.head=bos and write the template into prompt.question_prefix and answer_prompt",
               "prompt: the tokenizer has no chat format that ctxc knows (ChatML, Llama 3)");
    config_.head = format ? "chat" : "bos";
    if (format) {
      turn_open_ = format->open;
      turn_close_ = format->close;
    }
  }
  const bool needs_bos = config_.head == "bos" || config_.context_bos;
  CTXC_CHECK(!needs_bos || tokenizer_.bos(), ErrorKind::kInput,
             "name it as bos_token in tokenizer_config.json, or set prompt.head=none",
             "prompt: the tokenizer names no begin-of-text token");
}

TokenId Prompt::eos() const {
  return *tokenizer_.eos();
}
TokenId Prompt::pad() const {
  return tokenizer_.pad().value_or(eos());
}

Tokens Prompt::head_ids() const {
  if (config_.head == "chat") return tokenizer_.encode(turn_open_);
  return config_.head == "bos" ? Tokens{*tokenizer_.bos()} : Tokens{};
}

// The cleaning steps walk over code points, so broken bytes are repaired first (the tokenizer would do the
// same).
std::string Prompt::clean_context(const std::string& text) const {
  return config_.cleanup == "mrqa_v1" ? clean_mrqa_context(replace_invalid_utf8(text)) : text;
}

std::string Prompt::clean_question(const std::string& text) const {
  return config_.cleanup == "mrqa_v1" ? clean_mrqa_question(replace_invalid_utf8(text)) : text;
}

std::string Prompt::clean_answer(const std::string& text) const {
  return config_.cleanup == "mrqa_v1" ? detokenize_mrqa(text) : text;
}

Tokens Prompt::context_ids(const std::string& context) const {
  Tokens ids;
  if (config_.context_bos) ids.push_back(*tokenizer_.bos());
  append(ids, tokenizer_.encode(clean_context(context)));
  return ids;
}

Tokens Prompt::context_tail(const Tokens& ids, size_t limit) const {
  if (ids.size() <= limit) return ids;
  const std::ptrdiff_t front = config_.context_bos ? 1 : 0;
  Tokens kept(ids.begin(), ids.begin() + front);
  kept.insert(kept.end(), ids.end() - (static_cast<std::ptrdiff_t>(limit) - front), ids.end());
  return kept;
}

Tokens Prompt::query_ids(const std::string& question, int64_t max_question_tokens) const {
  const std::string asked = config_.question_prefix + clean_question(question);
  if (!config_.split_question) return tokenizer_.encode(asked + config_.answer_prompt + turn_close_);
  Tokens ids = tokenizer_.encode(asked);
  if (max_question_tokens > 0 && static_cast<int64_t>(ids.size()) > max_question_tokens)
    ids.resize(max_question_tokens);
  append(ids, tokenizer_.encode(config_.answer_prompt + turn_close_));
  return ids;
}

Tokens Prompt::query_ids(const std::string& text, const Tokens& quoted) const {
  Tokens ids = tokenizer_.encode(config_.question_prefix + text);
  append(ids, quoted);
  append(ids, tokenizer_.encode(config_.answer_prompt + turn_close_));
  return ids;
}

Tokens Prompt::answer_ids(const std::string& answer) const {
  Tokens ids = tokenizer_.encode(config_.answer_prefix + clean_answer(answer));
  ids.push_back(eos());
  return ids;
}

Tokens Prompt::few_shot_prefix(std::span<const SolvedExample> examples, int64_t max_context_tokens) const {
  Tokens ids;
  for (const SolvedExample& example : examples) {
    Tokens context = tokenizer_.encode(clean_context(example.context));
    if (max_context_tokens > 0 && static_cast<int64_t>(context.size()) > max_context_tokens)
      context.resize(max_context_tokens);
    append(ids, context);
    append(ids, query_ids(example.question));
    append(ids, tokenizer_.encode(config_.answer_prefix + clean_answer(example.answer) + "\n\n"));
  }
  return ids;
}

std::string Prompt::extract_answer(const Tokens& generated) const {
  Tokens
      known;  // a model with more rows than the tokenizer has tokens may say one of those; they mean nothing
  for (const TokenId id : generated) {
    if (id == eos()) break;
    if (tokenizer_.contains(id)) known.push_back(id);
  }
  const std::string text = tokenizer_.decode(known);
  if (config_.answer_extractor == "whole") return std::string(trim(text));
  return config_.answer_extractor == "first_line" ? extract_first_line(text)
                                                  : extract_first_sentence_dot(text);
}

}  // namespace ctxc
