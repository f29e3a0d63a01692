// Objectives: what a trained memory is for. They see the memory and the batch, never the method.
// Registered: ce (cross-entropy on the supervised tokens read after the memory: next-token training and
// answers alike); kd (distillation from the full context, kd_objective.h).
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "core/registry.h"
#include "model/compressor.h"

namespace ctxc {

class Objective {
 public:
  virtual ~Objective() = default;
  virtual Terms operator()(const Backbone& backbone, const Memory& memory, const Batch& batch,
                           const StepKey& key) = 0;
};

using ObjectiveFactory = std::function<std::unique_ptr<Objective>()>;
Registry<ObjectiveFactory>& objective_registry();

/// The rows the decoder reads for a batch: [head, valid slots, query 1, query 2, …] per example, each query
/// attending to head, slots and itself, at the memory's positions. The slots are read once for all queries of
/// a context.
struct Reading {
  PackedRows rows;
  Tensor source_M;  ///< int64: packed index whose hidden state predicts …
  Tensor target_M;  ///< … this token
};
Reading read_memory(const Backbone& backbone, const Memory& memory, const Batch& batch);

}  // namespace ctxc
