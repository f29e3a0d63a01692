// Objectives: what a trained memory is for. They see the memory and the batch, never the method.
// Registered: ce (cross-entropy on the supervised tokens read after the memory: next-token training and
// answers alike); kd (distillation from the full context, kd_objective.h).
#pragma once
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/registry.h"
#include "model/compressor.h"

namespace ctxc {

/// The rows the decoder reads for a batch: [head, valid slots, query 1, query 2, …] per example, each query
/// attending to head, slots and itself, at the memory's positions. The slots are read once for all queries of
/// a context.
struct Reading {
  PackedRows rows;
  Tensor source_M;  ///< int64: packed index whose hidden state predicts …
  Tensor target_M;  ///< … this token
};
Reading read_memory(const Backbone& backbone, const Memory& memory, const Batch& batch);

/// A batch read after a memory. The decoder runs once, however many objectives look at what it says; the
/// references must outlive this.
class BatchReading {
 public:
  BatchReading(const Backbone& backbone, const Memory& memory, const Batch& batch)
      : backbone_(backbone), memory_(memory), batch_(batch) {}
  const Backbone& backbone() const { return backbone_; }
  const Memory& memory() const { return memory_; }
  const Batch& batch() const { return batch_; }
  /// Supervised tokens, int64 [M]. Error kInput from objective `who` if there are none.
  const Tensor& target_M(const char* who);
  /// Final hidden states [M, D] that predict them.
  const Tensor& hidden_MD();

 private:
  const Reading& reading();
  const Backbone& backbone_;
  const Memory& memory_;
  const Batch& batch_;
  std::optional<Reading> reading_;
  Tensor hidden_MD_;
};

class Objective {
 public:
  virtual ~Objective() = default;
  virtual Terms operator()(BatchReading& reading, const StepKey& key) = 0;
};

using ObjectiveFactory = std::function<std::unique_ptr<Objective>()>;
Registry<ObjectiveFactory>& objective_registry();

}  // namespace ctxc
