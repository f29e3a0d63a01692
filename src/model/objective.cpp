#include "model/objective.h"

#include "core/error.h"
#include "model/device.h"
#include "model/kd_objective.h"
#include "model/loss.h"
#include "model/reading.h"

namespace ctxc {
namespace {

class CrossEntropy : public Objective {
 public:
  Terms operator()(BatchReading& reading, const StepKey&) override {
    const Tensor& target_M = reading.target_M("ce");
    return {{"ce", chunked_cross_entropy(reading.hidden_MD(), reading.backbone().head_VD(), target_M)}};
  }
};

/// What is read of a query while it is learned: the last target token predicts nothing and stays out.
Tokens read_part(const Query& query) {
  Tokens text = query.prompt;
  text.insert(text.end(), query.target.begin(), query.target.end() - 1);
  return text;
}

}  // namespace

Registry<ObjectiveFactory>& objective_registry() {
  static Registry<ObjectiveFactory> registry = [] {
    Registry<ObjectiveFactory> made("objective");
    made.add(
        "ce", [] { return std::make_unique<CrossEntropy>(); },
        "cross-entropy of the supervised tokens read after the memory");
    made.add("kd", make_distillation,
             "KL from what the base predicts with the whole context to what it predicts with the memory");
    return made;
  }();
  return registry;
}

const Reading& BatchReading::reading() {
  if (!reading_) reading_ = read_memory(backbone_, memory_, batch_);
  return *reading_;
}

const Tensor& BatchReading::target_M(const char* who) {
  CTXC_CHECK(reading().target_M.numel() > 0, ErrorKind::kInput, "see what the data holds with --dry-run",
             "objective {}: a batch of {} examples has no supervised token", who, batch_.examples.size());
  return reading().target_M;
}

const Tensor& BatchReading::hidden_MD() {
  if (!hidden_MD_.defined())
    hidden_MD_ = backbone_.forward(reading().rows).hidden[0].index_select(0, reading().source_M);
  return hidden_MD_;
}

Reading read_memory(const Backbone& backbone, const Memory& memory, const Batch& batch) {
  std::vector<Continuations> groups;
  for (size_t row = 0; row < batch.examples.size(); ++row) {
    Continuations group{.row = static_cast<int64_t>(row), .texts = {}};
    for (const Query& query : batch.examples[row].queries)
      if (!query.target.empty()) group.texts.push_back(read_part(query));
    if (!group.texts.empty()) groups.push_back(std::move(group));
  }
  PackedReading packed = pack_reading(backbone, memory, groups);

  std::vector<int64_t> sources, targets;
  for (size_t index = 0; index < groups.size(); ++index) {
    const Example& example = batch.examples[groups[index].row];
    size_t text = 0;
    for (const Query& query : example.queries) {
      if (query.target.empty()) continue;
      CTXC_CHECK(!query.prompt.empty() || packed.prefix[index] > 0, ErrorKind::kUsage,
                 "give the decoder a BOS token (prompt.bos) or the queries a prompt",
                 "objective ce: nothing stands before the first target token of '{}'", example.id);
      append_predicting(packed, index, text++, query.prompt.size(), query.target.size(), sources);
      targets.insert(targets.end(), query.target.begin(), query.target.end());
    }
  }
  return {std::move(packed.rows), to_device(at::tensor(sources, at::kLong), backbone.device()),
          to_device(at::tensor(targets, at::kLong), backbone.device())};
}

}  // namespace ctxc
