// The loss of a batch, in training and validation alike, and what a run measures on held-out data.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model/objective.h"
#include "train/metrics.h"
#include "train/setup.h"

namespace ctxc {

using Objectives = std::map<std::string, std::unique_ptr<Objective>>;
using Weights = std::map<std::string, double>;

/// The registered objectives among the names of `weights`; other names must be auxiliary terms of the method.
Objectives make_objectives(const Weights& weights);

/// Compresses the batch, reads it with every objective (in training those with a weight) and puts the
/// weighted sum of all terms into `loss` (scalar). Returns every term. Error kUsage if a weight names a term
/// that nobody gives in training; outside of it such a term is left out.
Terms weighted_loss(const TrainingModel& model, const Objectives& objectives, const Weights& weights,
                    const Batch& batch, Tensor& loss);

/// Measures on the first train.valid_batches micro-batches of data.valid, always the same ones.
class Validator {
 public:
  Validator(const RunConfig& config, const TrainingData& data, const TrainingModel& model,
            const Objectives& objectives, const Weights& weights);
  ValidationRecord measure(int64_t step) const;
  /// Greedy answers to the first `count` questions.
  std::vector<Sample> answer(int64_t count) const;

 private:
  const RunConfig& config_;
  const TrainingData& data_;
  const TrainingModel& model_;
  const Objectives& objectives_;
  const Weights& weights_;
};

}  // namespace ctxc
