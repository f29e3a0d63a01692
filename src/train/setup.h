// From a configuration to the things a run consists of: tokenizer and data, then model and trainable tensors.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/prompt.h"
#include "data/source.h"
#include "model/compressor.h"
#include "model/hidden_cache.h"
#include "train/optimizer.h"
#include "train/run_config.h"

namespace ctxc {

struct TrainingData {
  Tokenizer tokenizer;
  Prompt prompt;
  std::vector<std::shared_ptr<DataSource>> train, valid;
  Batcher batches;
  std::optional<Batcher> valid_batches;  ///< none without data.valid
  int64_t steps = 0;                     ///< of the run: train.steps, or what train.epochs come to
};
TrainingData open_training_data(const RunConfig& config);

struct TrainingModel {
  std::shared_ptr<Backbone> backbone;
  std::shared_ptr<Compressor> compressor;
  NamedTensors trainable;                     ///< compressor.<name>, backbone.<name>; in this order
  std::shared_ptr<HiddenCache> hidden_cache;  ///< none without train.hidden_cache
  NamedTensors state;  ///< state.<name>: the method's buffers, kept beside the optimizer's
};
/// Error kUsage if nothing is trainable.
TrainingModel build_training_model(const RunConfig& config, const TrainingData& data);

/// The device of run.device, ready for use (model/device.h). Error kUsage.
at::Device device_of(const RunConfig& config);
/// The Llama of this run with the tokenizer's special tokens where it is made from scratch.
LlamaConfig llama_of(const RunConfig& config, const Tokenizer& tokenizer);
CompressorSetup compressor_setup(const RunConfig& config, const LlamaConfig& llama, const Prompt& prompt);

}  // namespace ctxc
