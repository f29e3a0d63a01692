// Questions and answers as tokens: what mrqa, squad, qa_jsonl and synthetic have in common.
#pragma once
#include <functional>
#include <memory>

#include "data/jsonl.h"
#include "data/source.h"

namespace ctxc {

/// `read(sink)` hands over every passage. `identity` names the data (hash of the files or of the generator's
/// keys).
std::unique_ptr<DataSource> make_qa_source(const SourceConfig& config, const ExampleRules& rules,
                                           const Prompt& prompt, const std::string& identity,
                                           ReadOptions& options,
                                           const std::function<void(const PassageSink&)>& read);

/// Lengths, rules, prompt and tokenizer as one string, for fingerprints.
std::string rules_identity(const SourceConfig& config, const ExampleRules& rules, const Prompt& prompt);

}  // namespace ctxc
