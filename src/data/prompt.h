// The only place where BOS, EOS and template strings are decided: for training, evaluation and export alike.
// What a decoder reads: head, slots (or the context itself), query, answer. The query is one string
//   question_prefix + question + answer_prompt
// and the answer is tokenised apart from it, so that training and generation see the same boundary. With head
// `chat` the head opens a user's turn (after BOS where the template has one), and the query closes it and
// opens the assistant's.
#pragma once
#include <span>
#include <string>
#include <vector>

#include "core/config.h"
#include "data/tokenizer.h"

namespace ctxc {

struct PromptConfig {
  std::string cleanup = "mrqa_v1";  // none | mrqa_v1 (data.md section 3)
  std::string question_prefix = "Question: ";
  std::string answer_prompt = "Answer the question directly with a short span only, no explanation. Answer:";
  std::string answer_prefix;    // put in front of every answer, e.g. " "
  bool context_bos = false;     // BOS inside the context (the peer's evaluation has it, its SFT has not)
  bool split_question = false;  // tokenise question and answer prompt apart (the peer's evaluation)
  std::string head = "bos";     // what the decoder reads before the slots: bos | none | chat | auto
  std::string answer_extractor = "first_line";  // first_line | first_sentence_dot | whole
  int64_t shots = 0;                            // solved examples in front, for untrained references
  void describe(Fields& f);
};

/// An example with its answer, shown to a model that was not trained on the task.
struct SolvedExample {
  std::string context, question, answer;
};

class Prompt {
 public:
  /// Error kInput if the tokenizer lacks EOS, or BOS where head or context_bos ask for it.
  Prompt(PromptConfig config, Tokenizer tokenizer);
  const PromptConfig& config() const { return config_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }

  Tokens head_ids() const;  ///< [BOS], the opening of a user's turn, or empty
  /// What head `auto` became: chat where the tokenizer has a chat format that ctxc knows, else bos.
  const std::string& head() const { return config_.head; }
  std::string clean_context(const std::string& text) const;
  std::string clean_question(const std::string& text) const;
  std::string clean_answer(const std::string& text) const;
  /// Cleaned, tokenised, not truncated. With context_bos the first id is BOS: who truncates keeps it.
  Tokens context_ids(const std::string& context) const;
  /// The last `limit` of ids that context_ids() gave (all, if there are fewer); with context_bos BOS stays in
  /// front.
  Tokens context_tail(const Tokens& ids, size_t limit) const;
  /// Cleaned, template applied. With split_question, `max_question_tokens` > 0 keeps that many tokens of the
  /// question from its beginning (the peer's evaluation: 64); the answer prompt is always whole.
  Tokens query_ids(const std::string& question, int64_t max_question_tokens = 0) const;
  /// A query whose text ends in these tokens.
  Tokens query_ids(const std::string& text, const Tokens& quoted) const;
  Tokens answer_ids(const std::string& answer) const;  ///< with EOS
  /// Solved examples in the layout of the real one (context, query, answer), each followed by an empty line.
  /// The reader sees head_ids(), this, context_ids(), query_ids(). `max_context_tokens` > 0 keeps the
  /// beginnings of the examples' contexts; BOS is not repeated inside.
  Tokens few_shot_prefix(std::span<const SolvedExample> examples, int64_t max_context_tokens = 0) const;
  /// The generated tokens (up to EOS) as the answer that is scored.
  std::string extract_answer(const Tokens& generated) const;
  TokenId eos() const;
  TokenId pad() const;  ///< EOS if the tokenizer has none

 private:
  PromptConfig config_;
  Tokenizer tokenizer_;
  std::string turn_open_, turn_close_;  ///< with head `chat`
};

}  // namespace ctxc
