// One method on one data set: compress the contexts, decode the answers greedily, score them; or measure the
// NLL of the accepted answers alone. Of plain text the NLL of what follows each context is measured instead.
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "data/prompt.h"
#include "data/source.h"
#include "eval/eval_config.h"
#include "eval/score.h"
#include "model/compressor.h"

namespace ctxc {

/// What answers: a compressor over a backbone. References that truncate are another method, `full` as a rule,
/// over fewer tokens (`cut`).
struct Reader {
  std::string name;  ///< "full", "checkpoint": in tables and files
  std::shared_ptr<Backbone> backbone;
  std::shared_ptr<Compressor> compressor;
  std::shared_ptr<const Prompt> prompt;
  /// Context tokens it gets to see; empty = all.
  std::function<Tokens(const Tokens& context, const Query& query)> cut;
  bool cut_by_query = false;  ///< the query decides: every question is read behind a memory of its own
  bool foreign = false;       ///< a control: every question is read behind the memory of another passage
  int64_t padded_length = 0;  ///< columns of the context grid (parity); 0 = as long as the contexts
  HiddenCache* hidden_cache = nullptr;  ///< of this backbone; none: it reads every context
};

/// The questions of a set that are asked: contexts in the order of a fixed permutation, until `limit`
/// questions.
struct QuestionRef {
  int64_t example = 0, query = 0;
};
std::vector<QuestionRef> select_questions(const DataSource& source, int64_t limit);

struct QuestionRecord {
  std::string qid, question, prediction;
  std::vector<std::string> answers;
  Score score;
  int64_t context = 0;         ///< index of the passage in its source
  int64_t context_tokens = 0;  ///< of the passage as the method gets it (after the window's truncation)
  int64_t source_tokens = 0;   ///< of the whole passage
  int64_t vectors = 0;         ///< slots or tokens the decoder reads instead
};

struct Timing {
  double compress = 0, prefill = 0, decode = 0;  ///< seconds; with eval.nll prefill reads gold answers too
};

struct SetResult {
  std::string set, method;
  bool continued = false;         ///< plain text: nothing was asked, records hold the NLL of what follows
  bool likelihood_alone = false;  ///< questions whose answers were not decoded
  std::vector<QuestionRecord> records;     ///< in the order of the questions
  int64_t contexts = 0, truncated = 0;     ///< passages, and those that lost tokens to the window
  double context_tokens = 0, vectors = 0;  ///< mean over the passages
  double kv_bytes = 0;                     ///< keys and values of the vectors, mean over the passages
  int64_t new_tokens = 0;
  Timing seconds;
  bool answered() const { return !continued && !likelihood_alone; }
  double ratio() const { return vectors > 0 ? context_tokens / vectors : 0; }
  std::vector<ScoredQuestion> scores() const;
};

/// Called with the questions done and what is known so far ("F1 53.0"); the stop flag is polled between
/// batches: Stopped is thrown.
using EvalProgress = std::function<void(int64_t done, const std::string& so_far)>;

SetResult evaluate(const Reader& reader, const DataSource& source, const std::vector<QuestionRef>& questions,
                   const EvalConfig& config, const EvalProgress& progress = {});

}  // namespace ctxc
