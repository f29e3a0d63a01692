// The loop around a per-document method (lcc.md section 6): teacher answers, then steps of
//   memory (LoRA on) -> read items from it (LoRA off) -> KL and cross-entropy -> AdamW
// with measurements on held-out queries and probes, until nothing gets better; the chosen state is returned.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "train/compile_items.h"
#include "train/optimizer.h"
#include "train/selection.h"

namespace ctxc {

struct CompileSettings {
  uint64_t seed = 0;
  int64_t steps = 600;
  double epochs = 0;         ///< used where steps is 0
  int64_t check_every = 25;  ///< steps between measurements; 0 = only the last state
  int64_t batch = 8;         ///< items read at once, half of them reconstruction
  int64_t accumulate = 1;    ///< times as many in a step
  double lr = 2e-4, warmup = 0.03, final_lr = 0.1, clip = 1;
  std::string schedule = "cosine";
  AdamWOptions adamw;
  int64_t max_new = 128, continuations = 0;
  bool keep_parameters = false;  ///< states hold what was trained
};

struct CompileStep {
  int64_t step = 0;  ///< 0 is the first
  double lambda = 1, loss = 0, align = 0, recon = 0, grad_norm = 0, seconds = 0;
};
struct CompileCheck {
  int64_t step = 0;  ///< steps done
  double lambda = 1;
  CompileNumbers numbers;
};

/// What a run shows and keeps while a compile goes on.
struct CompileWatcher {
  std::function<void(int64_t done, int64_t of)> answered = [](int64_t, int64_t) {};
  std::function<void(const CompileStep&, int64_t of)> step = [](const CompileStep&, int64_t) {};
  std::function<void(const CompileCheck&)> check = [](const CompileCheck&) {};
};

struct CompileOutcome {
  CompileState chosen;
  CompileState last;
  CompileNumbers none, untrained, full;  ///< references: header alone, buffers before training, whole context
  double recon_accuracy = 0;             ///< greedy reconstruction: equal tokens
  int64_t recon_tokens = 0, recon_first_error = -1;  ///< -1: none
  int64_t steps = 0;
  double seconds = 0, teacher_seconds = 0, step_seconds = 0;
};

/// What both validation numbers are measured on, with the teacher's rows. It outlives the document.
struct HeldOutItems {
  std::vector<ReadItem> queries, probes;
};
/// Both validation numbers of a memory, in the read pass without adapters.
CompileNumbers measure_held_out(const Backbone& backbone, const Memory& memory, const HeldOutItems& items,
                                const Tensor& head_VD, double tau);

class DocumentCompiler {
 public:
  /// `document` and what else is referred to must outlive it.
  DocumentCompiler(const Backbone& backbone, const Prompt& prompt, PerDocument& method,
                   const Document& document, const QueryDraw& queries, CompileSettings settings);
  /// Nothing if a signal asked to stop. Error kNonFinite.
  std::optional<CompileOutcome> run(const CompileWatcher& watcher);
  /// What run() measures on; the teacher must have answered.
  HeldOutItems held_out();
  CompileNumbers measure(const Memory& memory);

 private:
  struct Batch;
  bool optimise(double lambda, const CompileWatcher& watcher, StateSelection& selection,
                CompileOutcome& outcome);
  /// The items of a step in train.accumulate batches.
  std::vector<Batch> next_batches(double lambda, ItemStream& pieces, ItemStream& queries);
  /// Adds the gradients of a batch, and its losses to `record`.
  void add_gradients(const Batch& batch, CompileStep& record);
  CompileStep step(double lambda, const std::vector<Batch>& batches, std::vector<AdamW>& optimizers,
                   int64_t index, int64_t of);
  int64_t steps_in_all() const;
  void reconstruct(const Memory& memory, CompileOutcome& outcome) const;

  const Backbone& backbone_;
  PerDocument& method_;
  const Document& document_;
  CompileSettings settings_;
  CompileItems items_;
  Tensor head_VD_;
};

}  // namespace ctxc
