// Data sources: files of several formats become tokenised Examples, held in memory as token ids.
// Registered formats: mrqa, squad, qa_jsonl, text (text = next-token blocks), synthetic, key_values (both
// generated). Globs and folders are allowed.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/registry.h"
#include "data/batch.h"
#include "data/key_values.h"
#include "data/prompt.h"
#include "data/synthetic.h"

namespace ctxc {

/// One entry of data.train / data.valid / data.eval.
struct SourceConfig {
  std::string path;  // file, glob or folder below data.root; "tiny-facts" or "key-values" for generated data
  std::string format;        // empty: recognised by content and name
  std::string name;          // shown in tables; empty: the file's stem
  double weight = 1;         // share when sources are mixed (per example, see Batcher)
  int64_t skip_samples = 0;  // left out before the first (contexts for QA, blocks for text)
  int64_t max_samples = 0;   // 0 = all
  std::string on_bad_line = "error";
  std::string context_column = "context", question_column = "question", answers_column = "answers",
              text_column = "text";
  SyntheticConfig synthetic;   // read by the format synthetic alone
  KeyValuesConfig key_values;  // read by the format key_values alone
  void describe(Fields& f);
};

/// Lengths and rules that turn text into tokens (section `data`).
struct ExampleRules {
  int64_t context_tokens = 512;
  int64_t query_tokens = 128;          // prompt + answer budget
  int64_t generation_tokens = 128;     // continuation length of text blocks
  std::string truncate = "head";       // which end of an over-long context is KEPT: head | tail
  bool char_cut = false;               // parity: cut to the last 6*context_tokens characters first
  bool one_query_per_example = false;  // parity: every question is its own example
  bool answer_in_window = false;       // drop questions whose answers were all truncated away
  double reconstruction = 0;    // share of text blocks that repeat their context instead of continuing it
  bool drop_remainder = false;  // parity: documents in groups of 1000, the last partial block of each dropped
  bool evaluation =
      false;  // questions: no targets, all kept, query_tokens bounds the prompt; text: continued
};

/// `truncated`: contexts that lost tokens; `answers_lost`: questions none of whose answers (that the whole
/// context holds) is left in the window; `dropped`: questions without answers, or filtered.
struct SourceStats {
  int64_t contexts = 0, queries = 0, context_tokens = 0, truncated = 0, answers_lost = 0, bad_lines = 0,
          dropped = 0;
};

class DataSource {
 public:
  virtual ~DataSource() = default;
  virtual int64_t size() const = 0;
  virtual Example example(int64_t index) const = 0;
  /// Context tokens of example `index`.
  virtual int64_t length(int64_t index) const { return static_cast<int64_t>(example(index).context.size()); }
  /// SHA-256 over the files' bytes, the rules and the tokenizer: a resumed run refuses changed data.
  virtual std::string fingerprint() const = 0;
  virtual const SourceStats& stats() const = 0;
  virtual const std::string& name() const = 0;
};

using SourceFactory =
    std::function<std::unique_ptr<DataSource>(const SourceConfig&, const ExampleRules&, const Prompt&)>;
Registry<SourceFactory>& source_registry();

/// The entry with its path below `root`, and its format and name filled in. Error kInput and kUsage.
SourceConfig complete_source(SourceConfig config, const std::string& root);

/// Opens one entry: resolves path and format, tokenises. Error kInput (file:line, or if nothing is left) and
/// kUsage.
std::unique_ptr<DataSource> open_source(const SourceConfig& config, const std::string& root,
                                        const ExampleRules& rules, const Prompt& prompt);

/// Mixes sources and cuts epochs into micro-batches: a pure function of (seed, step, micro), so nothing but
/// the step has to be saved. An epoch is a keyed permutation; inside blocks of `bucket_batches` micro-batches
/// examples are sorted by length so that a batch holds similar lengths, then the batches of the block are
/// permuted again. Every example of an epoch comes exactly once; an epoch's last batch may be smaller.
/// Weights compare examples, not sources: with weights 1 and 3 an example of the second source is seen three
/// times as often. The smallest weight counts as once an epoch; a source repeats nothing before all of it
/// came. With mix_sources weights 1 and 3 give a quarter and three quarters of the visits instead.
class Batcher {
 public:
  struct Options {
    int64_t batch = 8;            // contexts in a micro-batch
    int64_t accumulate = 1;       // micro-batches in a step
    int64_t bucket_batches = 16;  // 1 = no bucketing
    bool shuffle = true;
    uint64_t seed = 0;
    int64_t padded_length = 0;  // copied into every Batch
    int64_t max_queries = 0;    // queries of one context used per visit, drawn anew each epoch; 0 = all
    bool mix_sources = false;   // weights are shares of the sources, whatever their sizes
  };
  Batcher(std::vector<std::shared_ptr<DataSource>> sources, std::vector<double> weights, Options options);
  Batch batch(int64_t step, int64_t micro) const;
  int64_t batches_per_epoch() const;  ///< micro-batches
  std::string fingerprint() const;

 private:
  struct Impl;
  std::shared_ptr<const Impl> impl_;
};

}  // namespace ctxc
