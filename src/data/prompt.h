// The only place where BOS, EOS and template strings are decided: for training, evaluation and export alike.
#pragma once
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
  std::string head = "bos";     // what the decoder reads before the slots: bos | none
  std::string answer_extractor = "first_line";  // first_line | first_sentence_dot
  int64_t shots = 0;                            // solved examples in front, for untrained references
  void describe(Fields& f);
};

class Prompt {
 public:
  Prompt(PromptConfig config, Tokenizer tokenizer);
  const PromptConfig& config() const { return config_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }

  Tokens head_ids() const;  ///< [BOS], or empty
  std::string clean_context(const std::string& text) const;
  std::string clean_question(const std::string& text) const;
  std::string clean_answer(const std::string& text) const;
  Tokens context_ids(const std::string& context) const;  ///< cleaned, tokenised, not truncated
  Tokens query_ids(const std::string& question) const;   ///< cleaned, template applied
  Tokens answer_ids(const std::string& answer) const;    ///< with EOS
  /// The generated tokens as the answer that is scored.
  std::string extract_answer(const Tokens& generated) const;
  TokenId eos() const;
  TokenId pad() const;

 private:
  PromptConfig config_;
  Tokenizer tokenizer_;
};

}  // namespace ctxc
