#include "train/setup.h"

#include <cmath>

#include "core/error.h"
#include "model/device.h"

namespace ctxc {
namespace {

std::vector<std::shared_ptr<DataSource>> open_all(const std::vector<SourceConfig>& entries,
                                                  const RunConfig& config, const Prompt& prompt) {
  std::vector<std::shared_ptr<DataSource>> sources;
  for (const SourceConfig& entry : entries)
    sources.push_back(open_source(entry, config.data.root, config.data.rules, prompt));
  return sources;
}

std::vector<double> weights_of(const std::vector<SourceConfig>& entries) {
  std::vector<double> weights;
  for (const SourceConfig& entry : entries) weights.push_back(entry.weight);
  return weights;
}

Batcher::Options batcher_options(const RunConfig& config, bool training) {
  Batcher::Options options;
  options.batch = config.train.batch;
  options.accumulate = training ? config.train.accumulate : config.train.valid_batches;
  options.bucket_batches = config.data.bucket_batches;
  options.seed = static_cast<uint64_t>(config.run.seed);
  options.padded_length = config.data.padded ? config.data.rules.context_tokens : 0;
  options.max_queries = config.data.max_queries;
  options.mix_sources = training && config.data.mix == "sources";
  return options;
}

int64_t steps_of(const RunConfig& config, const Batcher& batches) {
  if (config.train.steps > 0) return config.train.steps;
  const double per_epoch =
      static_cast<double>(batches.batches_per_epoch()) / static_cast<double>(config.train.accumulate);
  return std::max<int64_t>(1, std::llround(std::ceil(config.train.epochs * per_epoch)));
}

}  // namespace

TrainingData open_training_data(const RunConfig& config) {
  CTXC_CHECK(!config.data.train.empty(), ErrorKind::kUsage, "list at least one {path: …}",
             "data.train is empty");
  const Tokenizer tokenizer = Tokenizer::load(config.tokenizer_path());
  const Prompt prompt(config.prompt, tokenizer);
  auto train = open_all(config.data.train, config, prompt),
       valid = open_all(config.data.valid, config, prompt);
  Batcher batches(train, weights_of(config.data.train), batcher_options(config, true));
  std::optional<Batcher> valid_batches;
  if (!valid.empty())
    valid_batches.emplace(valid, weights_of(config.data.valid), batcher_options(config, false));
  const int64_t steps = steps_of(config, batches);
  return {tokenizer, prompt, std::move(train), std::move(valid), std::move(batches), std::move(valid_batches),
          steps};
}

at::Device device_of(const RunConfig& config) {
  return resolve_device(config.run.device);
}

LlamaConfig llama_of(const RunConfig& config, const Tokenizer& tokenizer) {
  LlamaConfig llama = config.llama(tokenizer.vocab_size());
  if (config.backbone.init != "random") return llama;
  if (tokenizer.bos()) llama.bos = *tokenizer.bos();
  if (tokenizer.eos()) llama.eos = {*tokenizer.eos()};
  if (tokenizer.pad()) llama.pad = *tokenizer.pad();
  return llama;
}

CompressorSetup compressor_setup(const RunConfig& config, const LlamaConfig& llama, const Prompt& prompt) {
  const Tokens head = prompt.head_ids();
  return {llama, {head.begin(), head.end()}, static_cast<uint64_t>(config.run.seed)};
}

TrainingModel build_training_model(const RunConfig& config, const TrainingData& data) {
  BackboneOptions options;
  options.dtype = config.run.dtype;
  options.device = device_of(config);
  options.trainable = config.backbone.train;
  TrainingModel model;
  const LlamaConfig llama = llama_of(config, data.tokenizer);
  model.backbone = config.backbone.init == "random"
                       ? Backbone::random(llama, static_cast<uint64_t>(config.run.seed), options)
                       : Backbone::load(config.backbone.path, options);
  CTXC_CHECK(data.tokenizer.vocab_size() <= model.backbone->config().vocab_size, ErrorKind::kInput,
             "use the tokenizer that belongs to the base",
             "{}: the tokenizer has more tokens than the base has rows (found {}, expected at most {})",
             config.tokenizer_path(), data.tokenizer.vocab_size(), model.backbone->config().vocab_size);
  if (!config.train.hidden_cache.empty())
    model.hidden_cache =
        std::make_shared<HiddenCache>(config.train.hidden_cache, *model.backbone,
                                      static_cast<uint64_t>(1e9 * config.train.hidden_cache_gb));
  CompressorSetup setup = compressor_setup(config, model.backbone->config(), data.prompt);
  setup.embedding_VD = model.backbone->weights().at("model.embed_tokens.weight").detach();
  model.compressor = make_compressor(config.compressor, setup);
  model.compressor->to(options.device);
  model.compressor->train();
  for (const auto& item : model.compressor->named_parameters())
    if (item.value().requires_grad()) model.trainable.emplace_back("compressor." + item.key(), item.value());
  for (const auto& item : model.compressor->named_buffers())
    model.state.emplace_back("state." + item.key(), item.value());
  for (const auto& [name, weight] : model.backbone->weights())
    if (weight.requires_grad()) model.trainable.emplace_back("backbone." + name, weight);
  CTXC_CHECK(!model.trainable.empty(), ErrorKind::kUsage,
             "choose another compressor, or set backbone.train=true",
             "nothing to train: the method '{}' has no parameters and the base is frozen",
             config.compressor.find("name")->scalar());
  return model;
}

}  // namespace ctxc
