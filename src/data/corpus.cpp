#include "data/corpus.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>

#include "core/error.h"
#include "core/file.h"
#include "data/jsonl.h"
#include "data/qa_source.h"

namespace ctxc {
namespace {

constexpr const char* kRepeatInstruction = "Repeat the previous content:";
constexpr int64_t kDropGroup = 1000;  ///< documents in a group of the peer's preprocessing

class TextSource : public DataSource {
 public:
  TextSource(std::string name, std::string fingerprint)
      : name_(std::move(name)), fingerprint_(std::move(fingerprint)) {}
  int64_t size() const override { return static_cast<int64_t>(examples_.size()); }
  Example example(int64_t index) const override { return examples_.at(static_cast<size_t>(index)); }
  int64_t length(int64_t index) const override {
    return static_cast<int64_t>(examples_.at(static_cast<size_t>(index)).context.size());
  }
  std::string fingerprint() const override { return fingerprint_; }
  const SourceStats& stats() const override { return stats_; }
  const std::string& name() const override { return name_; }

  void add(Example example) {
    example.id = std::to_string(examples_.size());
    ++stats_.contexts;
    ++stats_.queries;
    stats_.context_tokens += static_cast<int64_t>(example.context.size());
    examples_.push_back(std::move(example));
  }
  SourceStats& mutable_stats() { return stats_; }

 private:
  std::string name_, fingerprint_;
  SourceStats stats_;
  std::vector<Example> examples_;
};

void read_plain(const std::string& file, const std::function<Reading(const std::string&)>& document) {
  std::string text;
  for_each_line(file, [&](std::string_view line, int64_t) { text.append(line).push_back('\n'); });
  document(text);
}

void read_documents(const SourceConfig& config, const std::string& file, ReadOptions& options,
                    const std::function<Reading(const std::string&)>& document) {
  const std::string name = file.ends_with(".gz") ? file.substr(0, file.size() - 3) : file;
  if (!name.ends_with(".jsonl") && !name.ends_with(".json")) return read_plain(file, document);
  for_each_json_row(file, options, [&](const JsonRow& row) {
    return document(json_at<std::string>(row.object, config.text_column, row.origin));
  });
}

/// Share of blocks that are continued, so that `reconstruction` is the share of examples: a repeated block
/// gives `segments` examples, a continued one gives one.
double continued_share(double reconstruction, int64_t segments) {
  const double ntp = 1 - reconstruction, n = static_cast<double>(segments);
  return n * ntp / (1 + (n - 1) * ntp);
}

void add_blocks(TextSource& source, std::span<const Tokens> blocks, const SourceConfig& config,
                const ExampleRules& rules, const Prompt& prompt) {
  const int64_t length = rules.context_tokens + rules.generation_tokens;
  const int64_t segments = (length + rules.context_tokens - 1) / rules.context_tokens;
  const double share = rules.evaluation ? 1 : continued_share(rules.reconstruction, segments);
  size_t count = blocks.size();
  if (config.max_samples > 0) count = std::min(count, static_cast<size_t>(config.max_samples));
  const auto continued = static_cast<uint64_t>(std::llround(share * static_cast<double>(count)));
  const KeyedPermutation rank(std::max<size_t>(count, 1), 0, "reconstruction");
  for (size_t i = 0; i < count; ++i) {
    if (rank[i] < continued)
      source.add(continuation_example(blocks[i], rules));
    else
      for (Example& example : reconstruction_examples(blocks[i], rules, prompt.tokenizer()))
        source.add(std::move(example));
  }
}

}  // namespace

void BlockCutter::add(const Tokens& document) {
  pending_.insert(pending_.end(), document.begin(), document.end());
  const size_t whole = pending_.size() / static_cast<size_t>(block_);
  auto begin = pending_.begin();
  for (size_t i = 0; i < whole; ++i, begin += block_) blocks_.emplace_back(begin, begin + block_);
  pending_.erase(pending_.begin(), begin);
  if (group_ > 0 && ++documents_ % group_ == 0) pending_.clear();
}

Example continuation_example(const Tokens& block, const ExampleRules& rules) {
  Example example;
  const auto middle = block.begin() + rules.context_tokens;
  example.context.assign(block.begin(), middle);
  example.source_tokens = rules.context_tokens;
  example.queries.push_back({{}, Tokens(middle, block.end()), "", "", {}});
  return example;
}

std::vector<Example> reconstruction_examples(const Tokens& block, const ExampleRules& rules,
                                             const Tokenizer& tokenizer) {
  const Tokens instruction = tokenizer.encode(kRepeatInstruction);
  const int64_t context = rules.context_tokens, length = static_cast<int64_t>(block.size());
  const int64_t room = rules.generation_tokens - static_cast<int64_t>(instruction.size());
  CTXC_CHECK(
      room > 0, ErrorKind::kUsage, "raise data.generation_tokens or set data.reconstruction to 0",
      "data.generation_tokens: too few for the instruction to repeat (found {}, expected more than {})",
      rules.generation_tokens, instruction.size());
  std::vector<Example> examples;
  for (int64_t begin = 0; begin < length; begin += context) {
    const auto first = block.begin() + std::min(begin, length - context);
    Example example;
    example.context.assign(first, first + context);
    example.source_tokens = context;
    Query query{instruction, Tokens(first, first + std::min(room, context)), "", "", {}};
    // A BOS in front is read, not predicted.
    if (query.target.front() == tokenizer.bos()) {
      query.prompt.push_back(query.target.front());
      query.target.erase(query.target.begin());
    }
    example.queries.push_back(std::move(query));
    examples.push_back(std::move(example));
  }
  return examples;
}

std::unique_ptr<DataSource> make_text_source(const SourceConfig& config,
                                             const std::vector<std::string>& files,
                                             const std::string& identity, const ExampleRules& rules,
                                             const Prompt& prompt) {
  auto source = std::make_unique<TextSource>(
      config.name, sha256_hex(identity + "\n" + rules_identity(config, rules, prompt)));
  BlockCutter cutter(rules.context_tokens + rules.generation_tokens, rules.drop_remainder ? kDropGroup : 0);
  ReadOptions options{config.on_bad_line == "skip", 0};
  int64_t tokens = 0;
  const auto enough = [&] {
    const auto blocks = static_cast<int64_t>(cutter.blocks().size());
    return config.max_samples > 0 && blocks >= config.skip_samples + config.max_samples;
  };
  for (const std::string& file : files) {
    if (enough()) break;
    read_documents(config, file, options, [&](const std::string& text) {
      const Tokens ids = prompt.tokenizer().encode(text, true);
      tokens += static_cast<int64_t>(ids.size());
      cutter.add(ids);
      return enough() ? Reading::kStop : Reading::kGoOn;
    });
  }
  CTXC_CHECK(!cutter.blocks().empty(), ErrorKind::kInput, "use more text, or lower data.context_tokens",
             "{}: too little text for one block (found {} tokens, expected at least {})", config.path, tokens,
             rules.context_tokens + rules.generation_tokens);
  const size_t skipped = std::min(cutter.blocks().size(), static_cast<size_t>(config.skip_samples));
  add_blocks(*source, std::span(cutter.blocks()).subspan(skipped), config, rules, prompt);
  source->mutable_stats().bad_lines = options.bad_lines;
  return source;
}

}  // namespace ctxc
