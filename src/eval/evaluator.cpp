#include "eval/evaluator.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "core/stop.h"
#include "model/generate.h"
#include "model/loss.h"
#include "model/objective.h"

namespace ctxc {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// A passage and those of its questions that are asked; one question where it decides what is read.
struct Work {
  int64_t example = 0;
  bool first = true;  ///< of its passage
  Example content;
  Tokens visible;                 ///< what the method gets to see
  std::vector<size_t> questions;  ///< indices into the list of questions
  std::vector<int64_t> queries;   ///< the same as indices into content.queries
};

/// Every passage's text becomes that of the next one (in the order of the questions, which is drawn): what a
/// memory is worth that knows the form of the set and nothing of the passage.
void exchange_contexts(std::vector<Work>& works, const std::string& set) {
  CTXC_CHECK(works.size() > 1, ErrorKind::kInput, "raise --limit",
             "{}: foreign memories need a second passage (found one)", set);
  for (size_t i = 0; i + 1 < works.size(); ++i) {
    std::swap(works[i].visible, works[i + 1].visible);
    std::swap(works[i].content.context, works[i + 1].content.context);
    std::swap(works[i].content.source_tokens, works[i + 1].content.source_tokens);
  }
}

std::vector<Work> gather(const Reader& reader, const DataSource& source,
                         const std::vector<QuestionRef>& questions) {
  std::map<int64_t, size_t> place;
  std::vector<Work> works;
  for (size_t i = 0; i < questions.size(); ++i) {
    const auto [it, fresh] = place.emplace(questions[i].example, works.size());
    if (fresh || reader.cut_by_query) {
      Work work;
      work.example = questions[i].example;
      work.first = fresh;
      work.content = source.example(work.example);
      const Query& query = work.content.queries.at(static_cast<size_t>(questions[i].query));
      work.visible = reader.cut ? reader.cut(work.content.context, query) : work.content.context;
      it->second = works.size();
      works.push_back(std::move(work));
    }
    works[it->second].questions.push_back(i);
    works[it->second].queries.push_back(questions[i].query);
  }
  if (reader.foreign) exchange_contexts(works, source.name());
  // Longest first: batches hold similar lengths, and what does not fit into memory fails at once.
  std::stable_sort(works.begin(), works.end(),
                   [](const Work& a, const Work& b) { return a.visible.size() > b.visible.size(); });
  return works;
}

/// A slice of works whose contexts fit into the budget together; always at least one.
size_t batch_end(const std::vector<Work>& works, size_t begin, int64_t budget) {
  int64_t tokens = 0;
  size_t end = begin;
  for (; end < works.size(); ++end) {
    tokens += static_cast<int64_t>(works[end].visible.size()) + 1;
    if (end > begin && tokens > budget) break;
  }
  return end;
}

/// One prompt to decode: which row of the memory it reads, and which question it is.
struct Ask {
  int64_t row = 0;
  size_t question = 0;
  const Query* query = nullptr;
};

class SetEvaluation {
 public:
  SetEvaluation(const Reader& reader, const EvalConfig& config, const std::vector<QuestionRef>& questions)
      : reader_(reader), config_(config), questions_(questions) {
    result_.method = reader.name;
    result_.records.resize(questions.size());
    nll_.resize(questions.size());
    options_.max_new_tokens = config.max_new_tokens;
    options_.eos = ending_ids(*reader.backbone, *reader.prompt);
  }

  SetResult run(const DataSource& source, const EvalProgress& progress) {
    const at::NoGradGuard no_grad;
    const std::vector<Work> works = gather(reader_, source, questions_);
    result_.set = source.name();
    const Work& any = works.front();
    result_.continued = !any.content.queries[static_cast<size_t>(any.queries[0])].target.empty();
    result_.likelihood_alone = !result_.continued && !config_.answers;
    for (size_t begin = 0, end; begin < works.size(); begin = end) {
      end = batch_end(works, begin, config_.batch_tokens);
      read(std::span(works).subspan(begin, end - begin));
      if (progress)
        progress(done_, result_.answered()
                            ? fmt::format("F1 {:.1f}", 100 * f1_ / static_cast<double>(done_))
                            : fmt::format("NLL {:.3f}", nll_sum_ / static_cast<double>(done_)));
      if (stop_requested()) throw Stopped{stop_signal()};
    }
    const double contexts = static_cast<double>(std::max<int64_t>(1, result_.contexts));
    result_.context_tokens /= contexts;
    result_.vectors /= contexts;
    const LlamaConfig& llama = reader_.backbone->config();
    result_.kv_bytes = result_.vectors * 2.0 *
                       static_cast<double>(llama.num_layers * llama.num_kv_heads * llama.head_dim) *
                       static_cast<double>(at::elementSize(reader_.backbone->compute_dtype()));
    return std::move(result_);
  }

 private:
  void read(std::span<const Work> works) {
    const Clock::time_point start = Clock::now();
    std::vector<Tokens> contexts;
    for (const Work& work : works) contexts.push_back(work.visible);
    Context context(*reader_.backbone, std::move(contexts), reader_.padded_length);
    context.use_cache(reader_.hidden_cache);
    const Memory memory = reader_.compressor->compress(context, {.training = false}).memory;
    const Tensor vectors_B = memory.mask_BK.sum(1).to(at::kCPU);
    result_.seconds.compress += seconds_since(start);
    if (!result_.answered()) likelihood(works, memory);

    std::vector<Ask> asks;
    std::vector<int64_t> vectors;
    for (size_t row = 0; row < works.size(); ++row) {
      vectors.push_back(vectors_B[static_cast<int64_t>(row)].item<int64_t>());
      note_context(works[row], vectors.back());
      for (size_t i = 0; i < works[row].questions.size(); ++i)
        asks.push_back({static_cast<int64_t>(row), works[row].questions[i],
                        &works[row].content.queries[static_cast<size_t>(works[row].queries[i])]});
    }
    if (!result_.answered()) return note_likelihood(asks);
    // Every prompt has its own copy of the keys and values while it decodes.
    for (size_t begin = 0, end; begin < asks.size(); begin = end) {
      int64_t tokens = 0;
      for (end = begin; end < asks.size(); ++end) {
        tokens += vectors[static_cast<size_t>(asks[end].row)] +
                  static_cast<int64_t>(asks[end].query->prompt.size()) + config_.max_new_tokens;
        if (end > begin && tokens > 2 * config_.batch_tokens) break;
      }
      decode(memory, std::span(asks).subspan(begin, end - begin));
    }
  }

  /// The first accepted answer, or what follows the context: whose likelihood is measured.
  Tokens scored(const Query& asked) const {
    if (result_.continued) return asked.target;
    CTXC_CHECK(!asked.answers.empty(), ErrorKind::kInput, "set eval.nll: false",
               "question '{}' has no accepted answer whose likelihood could be measured", asked.id);
    return reader_.prompt->answer_ids(asked.answers.front());
  }

  /// The likelihood alone, behind the memory; questions of a passage in one pass.
  void likelihood(std::span<const Work> works, const Memory& memory) {
    Batch batch;
    for (const Work& work : works) {
      Example example;
      example.id = work.content.id;
      for (const int64_t index : work.queries) {
        const Query& asked = work.content.queries[static_cast<size_t>(index)];
        Query query;
        query.prompt = asked.prompt;
        query.target = scored(asked);
        example.queries.push_back(std::move(query));
      }
      batch.examples.push_back(std::move(example));
    }
    BatchReading reading(*reader_.backbone, memory, batch);
    const Tensor& target_M = reading.target_M("nll");
    const Tensor nll_M =
        token_nll(reading.hidden_MD(), reader_.backbone->head_VD(), target_M).to(at::kCPU).contiguous();
    const float* next = nll_M.const_data_ptr<float>();
    for (size_t row = 0; row < works.size(); ++row)
      for (size_t i = 0; i < works[row].questions.size(); ++i) {
        const auto count = static_cast<int64_t>(batch.examples[row].queries[i].target.size());
        nll_[works[row].questions[i]] = std::accumulate(next, next + count, 0.0) / static_cast<double>(count);
        next += count;
      }
  }

  void note_context(const Work& work, int64_t vectors) {
    const int64_t tokens = static_cast<int64_t>(work.content.context.size());
    if (work.first) {
      ++result_.contexts;
      result_.truncated += tokens < work.content.source_tokens;
      result_.context_tokens += static_cast<double>(tokens);
      result_.vectors += static_cast<double>(vectors);
    }
    for (size_t i = 0; i < work.questions.size(); ++i) {
      const Query& query = work.content.queries[static_cast<size_t>(work.queries[i])];
      QuestionRecord& record = result_.records[work.questions[i]];
      record.qid = query.id;
      record.question = query.question;
      record.answers = query.answers;
      record.context = work.example;
      record.context_tokens = tokens;
      record.source_tokens = work.content.source_tokens;
      record.vectors = vectors;
    }
  }

  void note_likelihood(std::span<const Ask> asks) {
    for (const Ask& ask : asks) {
      QuestionRecord& record = result_.records[ask.question];
      if (result_.continued) record.qid = std::to_string(record.context);
      record.score.nll = nll_[ask.question];
      nll_sum_ += record.score.nll;
      ++done_;
    }
  }

  void decode(const Memory& memory, std::span<const Ask> asks) {
    std::vector<int64_t> rows;
    std::vector<Tokens> prompts, targets;
    for (const Ask& ask : asks) {
      rows.push_back(ask.row);
      prompts.push_back(ask.query->prompt);
      if (config_.nll) targets.push_back(scored(*ask.query));
    }
    const GenerateResult generated = generate(*reader_.backbone, memory, rows, prompts, options_, targets);
    result_.seconds.prefill += generated.prefill_seconds;
    result_.seconds.decode += generated.decode_seconds;
    for (size_t i = 0; i < asks.size(); ++i) {
      QuestionRecord& record = result_.records[asks[i].question];
      record.prediction = reader_.prompt->extract_answer(generated.tokens[i]);
      record.score = score_answer(record.prediction, record.answers);
      if (config_.nll) record.score.nll = generated.nll[i];
      result_.new_tokens += static_cast<int64_t>(generated.tokens[i].size());
      f1_ += record.score.f1;
      ++done_;
    }
  }

  const Reader& reader_;
  const EvalConfig& config_;
  const std::vector<QuestionRef>& questions_;
  GenerateOptions options_;
  SetResult result_;
  std::vector<double> nll_;  ///< of each question, where it alone is measured
  int64_t done_ = 0;
  double f1_ = 0, nll_sum_ = 0;  ///< over those done
};

}  // namespace

std::vector<QuestionRef> select_questions(const DataSource& source, int64_t limit) {
  std::vector<QuestionRef> questions;
  const KeyedPermutation order(static_cast<uint64_t>(source.size()), 0, "eval.questions");
  for (uint64_t i = 0; i < order.size(); ++i) {
    const int64_t example = static_cast<int64_t>(order[i]);
    const int64_t queries = static_cast<int64_t>(source.example(example).queries.size());
    for (int64_t query = 0; query < queries; ++query) {
      if (limit > 0 && static_cast<int64_t>(questions.size()) == limit) return questions;
      questions.push_back({example, query});
    }
  }
  return questions;
}

std::vector<ScoredQuestion> SetResult::scores() const {
  std::vector<ScoredQuestion> scores;
  for (const QuestionRecord& record : records) scores.push_back({record.score, record.context});
  return scores;
}

SetResult evaluate(const Reader& reader, const DataSource& source, const std::vector<QuestionRef>& questions,
                   const EvalConfig& config, const EvalProgress& progress) {
  CTXC_CHECK(!questions.empty(), ErrorKind::kInput, "", "{}: no question to ask", source.name());
  SetEvaluation evaluation(reader, config, questions);
  return evaluation.run(source, progress);
}

}  // namespace ctxc
