#include "train/validation.h"

#include <algorithm>
#include <chrono>

#include "core/error.h"
#include "core/text.h"
#include "eval/score.h"
#include "model/generate.h"

namespace ctxc {
namespace {

/// evaluation mode of the method for the lifetime of the object
class EvaluationMode {
 public:
  explicit EvaluationMode(Compressor& compressor) : compressor_(compressor) { compressor_.eval(); }
  ~EvaluationMode() { compressor_.train(); }
  EvaluationMode(const EvaluationMode&) = delete;
  EvaluationMode& operator=(const EvaluationMode&) = delete;

 private:
  Compressor& compressor_;
};

}  // namespace

Objectives make_objectives(const Weights& weights) {
  Objectives objectives;
  for (const auto& [name, weight] : weights)
    if (objective_registry().contains(name)) objectives[name] = objective_registry().at(name).factory();
  return objectives;
}

Terms weighted_loss(const TrainingModel& model, const Objectives& objectives, const Weights& weights,
                    const Batch& batch, Tensor& loss) {
  Context context(*model.backbone, batch);
  context.use_cache(model.hidden_cache.get());
  Compressed compressed = model.compressor->compress(context, batch.key);
  Terms terms = std::move(compressed.aux);
  BatchReading reading(*model.backbone, compressed.memory, batch);
  for (const auto& [name, objective] : objectives)
    if (weights.at(name) != 0 || !batch.key.training) terms.merge((*objective)(reading, batch.key));
  loss = Tensor();
  for (const auto& [name, weight] : weights) {
    const auto term = terms.find(name);
    // A method may give a term in training only, an objective without weight is measured in validation only.
    if (term == terms.end() && (!batch.key.training || objectives.contains(name))) continue;
    if (term == terms.end()) {
      std::vector<std::string> known = objective_registry().names();
      for (const auto& [other, value] : terms) known.push_back(other);
      throw Error(
          ErrorKind::kUsage,
          fmt::format("objective.{}: neither an objective nor a term of the method (expected one of: {})",
                      name, join(known, ", ")),
          did_you_mean(name, known));
    }
    if (weight == 0) continue;  // logged only
    const Tensor part = weight == 1 ? term->second : term->second * weight;
    loss = loss.defined() ? loss + part : part;
  }
  if (!loss.defined()) loss = at::zeros({});  // nothing but terms of training
  return terms;
}

Validator::Validator(const RunConfig& config, const TrainingData& data, const TrainingModel& model,
                     const Objectives& objectives, const Weights& weights)
    : config_(config), data_(data), model_(model), objectives_(objectives), weights_(weights) {}

ValidationRecord Validator::measure(int64_t step) const {
  const auto start = std::chrono::steady_clock::now();
  const at::NoGradGuard no_grad;
  const EvaluationMode evaluation(*model_.compressor);
  const Batcher& batches = *data_.valid_batches;
  ValidationRecord record;
  record.step = step;
  double tokens = 0;
  const int64_t count = std::min(config_.train.valid_batches, batches.batches_per_epoch());
  for (int64_t i = 0; i < count; ++i) {
    Batch batch = batches.batch(0, i);
    batch.key.training = false;
    const double share = static_cast<double>(batch.supervised_tokens());
    Tensor loss;
    for (const auto& [name, value] : weighted_loss(model_, objectives_, weights_, batch, loss))
      record.terms[name] += share * value.item<double>();
    record.loss += share * loss.item<double>();
    tokens += share;
    ++record.batches;
  }
  record.loss /= std::max(tokens, 1.0);
  for (auto& [name, value] : record.terms) value /= std::max(tokens, 1.0);
  record.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return record;
}

std::vector<Sample> Validator::answer(int64_t count) const {
  const at::NoGradGuard no_grad;
  const EvaluationMode evaluation(*model_.compressor);
  const Batcher& batches = *data_.valid_batches;
  GenerateOptions options;
  options.max_new_tokens = config_.eval.max_new_tokens;
  options.eos = ending_ids(*model_.backbone, data_.prompt);
  std::vector<Sample> samples;
  const int64_t available = std::min(config_.train.valid_batches, batches.batches_per_epoch());
  for (int64_t i = 0; i < available && static_cast<int64_t>(samples.size()) < count; ++i) {
    Batch batch = batches.batch(0, i);
    batch.key.training = false;
    std::vector<int64_t> rows;
    std::vector<Tokens> prompts;
    for (size_t row = 0; row < batch.examples.size(); ++row) {
      for (const Query& query : batch.examples[row].queries) {
        if (static_cast<int64_t>(samples.size()) == count || query.answers.empty()) continue;
        samples.push_back({query.id, query.question, "", query.answers, false});
        rows.push_back(static_cast<int64_t>(row));
        prompts.push_back(query.prompt);
      }
    }
    if (rows.empty()) continue;
    Context context(*model_.backbone, batch);
    const Memory memory = model_.compressor->compress(context, batch.key).memory;
    const GenerateResult result = generate(*model_.backbone, memory, rows, prompts, options);
    for (size_t k = 0; k < rows.size(); ++k) {
      Sample& sample = samples[samples.size() - rows.size() + k];
      sample.prediction = data_.prompt.extract_answer(result.tokens[k]);
      sample.exact = score_answer(sample.prediction, sample.answers).exact_match > 0;
    }
  }
  return samples;
}

}  // namespace ctxc
