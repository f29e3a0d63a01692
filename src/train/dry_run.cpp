#include "train/dry_run.h"

#include <algorithm>

#include "core/text.h"
#include "train/planner.h"
#include "train/setup.h"

namespace ctxc {
namespace {

constexpr int64_t kShapeBatches = 8;  // micro-batches the average is taken over

std::string source_text(const DataSource& source) {
  const SourceStats& stats = source.stats();
  const double mean =
      stats.contexts ? static_cast<double>(stats.context_tokens) / static_cast<double>(stats.contexts) : 0;
  return fmt::format(
      "  {}: {} examples, {} contexts, {} queries, {:.0f} tokens a context, {} truncated, {} lost all "
      "answers, {} dropped, {} bad lines\n",
      source.name(), source.size(), stats.contexts, stats.queries, mean, stats.truncated, stats.answers_lost,
      stats.dropped, stats.bad_lines);
}

OrderedJson source_json(const DataSource& source) {
  const SourceStats& stats = source.stats();
  return {{"name", source.name()},
          {"examples", source.size()},
          {"contexts", stats.contexts},
          {"queries", stats.queries},
          {"context_tokens", stats.context_tokens},
          {"truncated", stats.truncated},
          {"answers_lost", stats.answers_lost},
          {"dropped", stats.dropped},
          {"bad_lines", stats.bad_lines}};
}

/// What the decoder reads, and below the supervised part between brackets.
std::string query_text(const Query& query, const Tokenizer& tokenizer) {
  return fmt::format("    read:       {}\n    supervised: [{}] ({} tokens)\n",
                     OrderedJson(tokenizer.decode(query.prompt, false)).dump(),
                     OrderedJson(tokenizer.decode(query.target, false)).dump(), query.target.size());
}

std::string example_text(const Example& example, const Tokenizer& tokenizer) {
  std::string text =
      fmt::format("  {} ({} of {} context tokens, {} queries)\n    context:    {}\n", example.id,
                  example.context.size(), example.source_tokens, example.queries.size(),
                  OrderedJson(tokenizer.decode(example.context, false)).dump());
  for (const Query& query : example.queries) text += query_text(query, tokenizer);
  return text;
}

BatchShape mean_shape(const Batcher& batches) {
  const int64_t count = std::min(kShapeBatches, batches.batches_per_epoch());
  BatchShape shape;
  const double share = 1.0 / static_cast<double>(std::max<int64_t>(1, count));
  for (int64_t i = 0; i < count; ++i) {
    const BatchShape one = shape_of(batches.batch(i, 0));
    shape.contexts += share * one.contexts;
    shape.context_tokens += share * one.context_tokens;
    shape.queries += share * one.queries;
    shape.query_tokens += share * one.query_tokens;
    shape.supervised += share * one.supervised;
    shape.longest_context = std::max(shape.longest_context, one.longest_context);
  }
  return shape;
}

}  // namespace

DryRun dry_run(const RunConfig& config) {
  const TrainingData data = open_training_data(config);
  const LlamaConfig llama = llama_of(config, data.tokenizer);
  const auto compressor = make_compressor(config.compressor, compressor_setup(config, llama, data.prompt));
  int64_t trainable = 0;
  for (const Tensor& parameter : compressor->parameters())
    if (parameter.requires_grad()) trainable += parameter.numel();
  const Plan plan = make_plan(config, llama, *compressor, trainable, mean_shape(data.batches), data.steps);

  DryRun result;
  result.text = "configuration:\n" + dump_config(config, 2);
  result.text += fmt::format(
      "tokenizer: {}, {} tokens\nbase: {} layers, width {}, {} heads ({} for keys), vocabulary {}\n",
      config.tokenizer_path(), data.tokenizer.vocab_size(), llama.num_layers, llama.hidden_size,
      llama.num_heads, llama.num_kv_heads, llama.vocab_size);
  for (const auto& [title, sources] :
       {std::pair{"training data", &data.train}, std::pair{"validation data", &data.valid}}) {
    if (sources->empty()) continue;
    result.text += std::string(title) + ":\n";
    for (const auto& source : *sources) {
      result.text += source_text(*source);
      result.json[title].push_back(source_json(*source));
    }
  }
  const Batch batch = data.batches.batch(0, 0);
  const int64_t shown = std::min<int64_t>(config.data.preview, static_cast<int64_t>(batch.examples.size()));
  result.text += fmt::format("first batch: {} contexts, {} queries, {} supervised tokens; {} shown\n",
                             batch.examples.size(), batch.queries(), batch.supervised_tokens(), shown);
  for (int64_t i = 0; i < shown; ++i)
    result.text += example_text(batch.examples[static_cast<size_t>(i)], data.tokenizer);
  result.text += "plan:\n" + plan_text(plan);
  result.json["plan"] = plan_json(plan);
  return result;
}

}  // namespace ctxc
