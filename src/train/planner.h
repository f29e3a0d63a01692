// What a run will need, before it starts: tensors in memory, arithmetic, disk and time. From shapes alone: no
// weights are read. The estimates are of tensors (what the allocator hands out), not of the process.
#pragma once
#include <cstdint>
#include <string>

#include "core/error.h"
#include "model/compressor.h"
#include "model/device.h"
#include "train/run_config.h"

namespace ctxc {

/// Shape of an average micro-batch.
struct BatchShape {
  double contexts = 0, context_tokens = 0;  ///< tokens: of all contexts together
  double queries = 0, query_tokens = 0, supervised = 0;
  double longest_context = 0;  ///< of one context
};

struct Plan {
  int64_t backbone_parameters = 0, trainable_parameters = 0;
  double slots = 0;  ///< per context
  // bytes
  double weights = 0, gradients = 0, optimizer = 0, encoder = 0, decoder = 0, head = 0;
  double memory() const { return weights + gradients + optimizer + encoder + decoder + head; }
  double checkpoint_bytes = 0, disk_bytes = 0;  ///< of one, of all that are kept at once
  double flop_per_step = 0;
  double tokens_per_step = 0;
  int64_t steps = 0;
  double flop_per_second = 0;  ///< assumed of the device
  std::string device;          ///< and where that number comes from
  double device_bytes = 0;     ///< memory of the device
  double seconds_per_step() const { return flop_per_second > 0 ? flop_per_step / flop_per_second : 0; }
};

BatchShape shape_of(const Batch& batch);

/// `trainable`: parameters of the method (the base's are added where it trains).
Plan make_plan(const RunConfig& config, const LlamaConfig& llama, const Compressor& compressor,
               int64_t trainable, const BatchShape& shape, int64_t steps);
/// Lines for people.
std::string plan_text(const Plan& plan);
OrderedJson plan_json(const Plan& plan);

/// True for the texts that LibTorch's allocators give when memory runs out.
bool is_out_of_memory(const std::string& message);
/// Error kMemory for a step that ran out of memory: what was planned, what was in use.
Error out_of_memory(int64_t step, const std::string& message, const Plan& plan, const DeviceMemory& memory);

}  // namespace ctxc
