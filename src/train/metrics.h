// What a run records: log.jsonl (one object per step), TensorBoard events, samples.jsonl and the progress
// line.
#pragma once
#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "core/log.h"
#include "core/tensorboard.h"
#include "train/run_folder.h"

namespace ctxc {

struct StepRecord {
  int64_t step = 0;                     ///< 0 is the first
  double loss = 0;                      ///< what was differentiated, as a mean over micro-batches
  std::map<std::string, double> terms;  ///< unweighted, mean over micro-batches
  double lr = 0, grad_norm = 0;
  int64_t context_tokens = 0, query_tokens = 0, supervised_tokens = 0;
  double seconds = 0, data_wait = 0;
  uint64_t device_bytes = 0, device_peak_bytes = 0;  ///< of tensors on the GPU; 0 on the CPU
};

struct ValidationRecord {
  int64_t step = 0;  ///< steps done
  double loss = 0;   ///< mean over supervised tokens
  std::map<std::string, double> terms;
  int64_t batches = 0;
  double seconds = 0;
};

struct Sample {
  std::string id, question, prediction;
  std::vector<std::string> answers;
  bool exact = false;
};

/// Resident memory of this process, in bytes.
uint64_t resident_bytes();

class RunLog {
 public:
  /// Goes on behind the lines of earlier steps.
  RunLog(const RunFolder& folder, int64_t first_step, int64_t steps, int64_t every);
  ~RunLog();
  void step(const StepRecord& record);
  void validation(const ValidationRecord& record);
  void samples(int64_t step, const std::vector<Sample>& samples);
  void finish();

 private:
  JsonLinesFile log_, samples_;
  EventWriter events_;
  Progress progress_;
  int64_t every_;
  double loss_average_ = 0;
  bool any_ = false;
};

}  // namespace ctxc
