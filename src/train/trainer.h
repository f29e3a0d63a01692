// The one training loop: batch -> compress -> objectives -> backward -> check -> clip -> optimizer -> record
// -> save. Nothing else changes a parameter. Everything drawn or scheduled is a function of (seed, step), so
// a resumed run is the uninterrupted one, bit for bit on the CPU.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/loader.h"
#include "model/objective.h"
#include "train/checkpoint.h"
#include "train/lr.h"
#include "train/metrics.h"
#include "train/planner.h"
#include "train/run_folder.h"
#include "train/setup.h"
#include "train/validation.h"

namespace ctxc {

struct TrainResult {
  int64_t steps_done = 0, steps = 0;
  double last_loss = 0;
  BestSoFar best;
  std::string checkpoint;  ///< the newest
  int signal = 0;          ///< that stopped the run, after saving
};

class Trainer {
 public:
  /// Opens data, model and run folder; resumes or starts from train.init_from. Any Error comes before the
  /// first write into an existing run.
  Trainer(RunConfig config, FolderUse use);
  ~Trainer();
  /// Trains to the end, or until a signal asks to stop (the micro-batch at hand is finished and a checkpoint
  /// written). Error kNonFinite before the optimizer saw a bad gradient, kDisk if a checkpoint cannot be
  /// written.
  TrainResult run();

 private:
  void resume();
  /// The optimizer's moments and the method's buffers.
  void load_training_state(std::map<std::string, Tensor> tensors, const std::string& origin);
  /// One step; where memory ran out, Error kMemory that sets the plan beside what was used.
  std::optional<StepRecord> step_or_plan();
  std::optional<StepRecord> step();
  Terms forward(const Batch& batch, Tensor& loss);
  void check_finite(const Terms& terms, const Tensor& loss, const std::vector<std::string>& ids);
  void check_gradients(const StepRecord& record, const std::vector<std::string>& ids);
  [[noreturn]] void stop_non_finite(const std::string& what, OrderedJson report);
  void validate();
  void save();

  RunConfig config_;
  RunFolder folder_;
  TrainingData data_;
  TrainingModel model_;
  Weights weights_;
  Objectives objectives_;
  AdamW optimizer_;
  LrSchedule schedule_;
  std::string fingerprint_;
  int64_t step_ = 0, saved_step_ = -1, validated_step_ = -1;
  BestSoFar best_;
  std::string last_checkpoint_;
  BatchShape shape_;  ///< of the micro-batch at hand
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<RunLog> log_;
};

}  // namespace ctxc
