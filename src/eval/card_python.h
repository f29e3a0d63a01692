// Python of the model cards, complete as it stands: it loads the base, makes the ids that ctxc-run ask sends
// for a question, and reads the answer as ask shows it.
#pragma once
#include <string>

#include "core/json.h"
#include "data/prompt.h"

namespace ctxc {

/// How a memory wants its questions put.
struct CardPrompt {
  PromptConfig config;
  std::string turn_close;        ///< behind the answer prompt; "" without a chat format
  bool turn_close_known = true;  ///< false: neither the record nor a tokenizer at the base's path says it
};

/// From a memory's record; of one that does not say how a turn is closed (older versions), the tokenizer at
/// `base` is asked.
CardPrompt card_prompt(const Json& info, const std::string& base, const std::string& origin);
/// `"Question: " + QUESTION + "…"`, or two such parts where they are tokenised apart.
std::string question_expression(const CardPrompt& prompt);

/// Imports (`standard`: of Python's library, `packages`: others), FOLDER, base and tokenizer; `base` is a
/// Hugging Face folder or name, or a GGUF file.
std::string python_base(const std::string& base, const std::string& standard, const std::string& packages);
/// question_ids(), answer_of() a text, answer_text() of ids, GREEDY (arguments of generate) and `ids`, those
/// of a question.
std::string python_question(const CardPrompt& prompt);
/// A Python literal.
std::string python_text(const std::string& text);

}  // namespace ctxc
