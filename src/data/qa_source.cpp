#include "data/qa_source.h"

#include <algorithm>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"

namespace ctxc {
namespace {

/// The text's last `count` code points.
std::string_view last_characters(std::string_view text, int64_t count) {
  size_t begin = text.size();
  while (begin > 0 && count > 0) {
    --begin;
    if ((static_cast<unsigned char>(text[begin]) & 0xC0) != 0x80) --count;
  }
  return text.substr(begin);
}

std::string ascii_lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

template <class T>
void keep_last(std::vector<T>& items, size_t count) {
  if (items.size() > count) items.erase(items.begin(), items.end() - static_cast<std::ptrdiff_t>(count));
}

/// Turns passages into tokens by the rules.
class Encoder {
 public:
  Encoder(const ExampleRules& rules, const Prompt& prompt, SourceStats& stats)
      : rules_(rules), prompt_(prompt), stats_(stats), budget_(static_cast<size_t>(rules.query_tokens)) {}

  /// No example if no question is left.
  std::optional<Example> encode(const Passage& passage) {
    Example example;
    example.id = passage.id;
    example.context = context_ids(passage.context, example.source_tokens);
    const bool truncated = static_cast<int64_t>(example.context.size()) < example.source_tokens;
    const std::string window = truncated ? ascii_lower(prompt_.tokenizer().decode(example.context)) : "";
    const std::string whole = truncated ? ascii_lower(prompt_.clean_context(passage.context)) : "";
    for (const Question& question : passage.questions) {
      if (question.answers.empty() && !rules_.evaluation) {
        ++stats_.dropped;
        continue;
      }
      const bool lost = truncated && is_lost(question, whole, window);
      stats_.answers_lost += lost;
      if (lost && rules_.answer_in_window && !rules_.evaluation) {
        ++stats_.dropped;
        continue;
      }
      example.queries.push_back(encode(question));
    }
    if (example.queries.empty()) return std::nullopt;
    ++stats_.contexts;
    stats_.queries += static_cast<int64_t>(example.queries.size());
    stats_.context_tokens += static_cast<int64_t>(example.context.size());
    stats_.truncated += truncated;
    return example;
  }

 private:
  /// Truncated context; `source_tokens`: its length before. BOS, where the context has one, is kept in front.
  Tokens context_ids(const std::string& text, int64_t& source_tokens) const {
    Tokens ids;
    bool cut_characters = false;
    if (rules_.char_cut) {
      const std::string clean = prompt_.clean_context(text);
      const std::string_view tail = last_characters(clean, 6 * rules_.context_tokens);
      cut_characters = tail.size() < clean.size();
      ids = prompt_.tokenizer().encode(tail);
      if (prompt_.config().context_bos) ids.insert(ids.begin(), *prompt_.tokenizer().bos());
    } else {
      ids = prompt_.context_ids(text);
    }
    const size_t limit = static_cast<size_t>(rules_.context_tokens);
    source_tokens = static_cast<int64_t>(std::max(ids.size(), cut_characters ? limit + 1 : 0));
    if (ids.size() <= limit) return ids;
    if (rules_.truncate == "tail") return prompt_.context_tail(ids, limit);
    ids.resize(limit);
    return ids;
  }

  /// Every answer that is in the whole context fell outside of the window (ASCII letters compared without
  /// case).
  bool is_lost(const Question& question, const std::string& whole, const std::string& window) const {
    bool found = false;
    for (const std::string& raw : question.answers)
      for (const std::string& answer : {ascii_lower(raw), ascii_lower(prompt_.clean_answer(raw))}) {
        if (window.find(answer) != std::string::npos) return false;
        found = found || whole.find(answer) != std::string::npos;
      }
    return found;
  }

  Query encode(const Question& question) const {
    Query query;
    query.id = question.id;
    query.question = question.text;
    query.answers = question.answers;
    if (rules_.evaluation) {
      // Tokenised apart (as the peer does) the question keeps its beginning; else the prompt keeps its end.
      query.prompt = prompt_.query_ids(question.text, rules_.query_tokens);
      if (!prompt_.config().split_question) keep_last(query.prompt, budget_);
      return query;
    }
    query.prompt = prompt_.query_ids(question.text);
    query.target = prompt_.answer_ids(question.answers.front());
    if (query.target.size() >= budget_) {
      keep_last(query.target, budget_);
      query.prompt.clear();
    } else {
      keep_last(query.prompt, budget_ - query.target.size());
    }
    return query;
  }

  const ExampleRules& rules_;
  const Prompt& prompt_;
  SourceStats& stats_;
  size_t budget_;
};

class QaSource : public DataSource {
 public:
  QaSource(std::string name, bool one_query, std::string fingerprint)
      : name_(std::move(name)), one_query_(one_query), fingerprint_(std::move(fingerprint)) {}

  int64_t size() const override {
    return static_cast<int64_t>(one_query_ ? visits_.size() : examples_.size());
  }
  Example example(int64_t index) const override {
    if (!one_query_) return examples_.at(static_cast<size_t>(index));
    const auto [at, number] = visits_.at(static_cast<size_t>(index));
    const Example& all = examples_[at];
    return {all.context, {all.queries[number]}, all.id, all.source_tokens};
  }
  int64_t length(int64_t index) const override {
    const size_t at = one_query_ ? visits_.at(static_cast<size_t>(index)).first : static_cast<size_t>(index);
    return static_cast<int64_t>(examples_.at(at).context.size());
  }
  std::string fingerprint() const override { return fingerprint_; }
  const SourceStats& stats() const override { return stats_; }
  const std::string& name() const override { return name_; }

  SourceStats& mutable_stats() { return stats_; }
  void add(Example example) {
    if (one_query_)
      for (size_t i = 0; i < example.queries.size(); ++i) visits_.emplace_back(examples_.size(), i);
    examples_.push_back(std::move(example));
  }

 private:
  std::string name_;
  bool one_query_;
  std::string fingerprint_;
  SourceStats stats_;
  std::vector<Example> examples_;
  std::vector<std::pair<size_t, size_t>> visits_;  ///< example and query, with one_query_per_example
};

}  // namespace

std::unique_ptr<DataSource> make_qa_source(const SourceConfig& config, const ExampleRules& rules,
                                           const Prompt& prompt, const std::string& identity,
                                           ReadOptions& options,
                                           const std::function<void(const PassageSink&)>& read) {
  const std::string fingerprint = sha256_hex(identity + "\n" + rules_identity(config, rules, prompt));
  auto source = std::make_unique<QaSource>(config.name, rules.one_query_per_example, fingerprint);
  SourceStats skipped;  // counted by the same rules, so that max_samples: N and skip_samples: N never overlap
  Encoder skipper(rules, prompt, skipped), encoder(rules, prompt, source->mutable_stats());
  read([&](Passage&& passage) {
    if (skipped.contexts < config.skip_samples) {
      skipper.encode(passage);
      return Reading::kGoOn;
    }
    if (auto example = encoder.encode(passage)) source->add(std::move(*example));
    const bool enough = config.max_samples > 0 && source->stats().contexts >= config.max_samples;
    return enough ? Reading::kStop : Reading::kGoOn;
  });
  source->mutable_stats().bad_lines = options.bad_lines;
  return source;
}

std::string rules_identity(const SourceConfig& config, const ExampleRules& rules, const Prompt& prompt) {
  return fmt::format("{} {} {} {} {} {} {} {}\n{} {} {} {} {} {} {} {} {} {}\n{}\n{}", config.format,
                     config.skip_samples, config.max_samples, config.on_bad_line, config.context_column,
                     config.question_column, config.answers_column, config.text_column, rules.context_tokens,
                     rules.query_tokens, rules.generation_tokens, rules.truncate, rules.char_cut,
                     rules.one_query_per_example, rules.answer_in_window, rules.reconstruction,
                     rules.evaluation, rules.drop_remainder, dump_config(prompt.config()),
                     prompt.tokenizer().fingerprint());
}

}  // namespace ctxc
