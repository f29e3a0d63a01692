// What a run over contexts knows before any weights are loaded: tokenizer, prompt, random queries, the
// method, and the parts that a text is compiled in. What a compile cannot do is refused here, before its
// first step.
#pragma once
#include <memory>
#include <vector>

#include "data/prompt.h"
#include "data/query_bank.h"
#include "model/per_document.h"
#include "train/context_text.h"
#include "train/document_compiler.h"
#include "train/run_config.h"

namespace ctxc {

class CompileInputs {
 public:
  /// Loads the tokenizer and draws the queries. Error kUsage and kInput.
  explicit CompileInputs(const RunConfig& config);
  CompileInputs(const CompileInputs&) = delete;  // the prompt refers to the tokenizer

  /// The parts that a text is compiled in: one, or the segments of a text longer than
  /// compressor.segment_tokens. Error kInput naming the context where it is empty, holds special tokens, is
  /// too short to be asked for again or does not fit the window of the base.
  std::vector<Tokens> parts_of(const ContextText& context) const;
  /// Slots of all parts together.
  int64_t slots_of(const std::vector<Tokens>& parts) const;

  const CompileSettings& settings() const { return settings_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  const Prompt& prompt() const { return prompt_; }
  const QueryDraw& queries() const { return queries_; }
  PerDocument& method() const { return *method_; }
  bool chained() const { return method_->recipe().segments == "chained"; }

 private:
  Tokens tokens_of(const ContextText& context) const;
  /// Error kInput where a part behind `prefix` rows cannot be compiled.
  void check_part(const ContextText& context, const Tokens& part, int64_t prefix) const;

  CompileSettings settings_;
  Tokenizer tokenizer_;
  Prompt prompt_;
  QueryDraw queries_;
  int64_t longest_query_ = 0;  ///< tokens
  int64_t window_ = 0;         ///< of the base; 0 = unknown
  std::shared_ptr<PerDocument> method_;
};

/// Parts of at most `longest` tokens, as equal as can be.
std::vector<Tokens> cut_segments(const Tokens& tokens, int64_t longest);

}  // namespace ctxc
