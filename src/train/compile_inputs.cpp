#include "train/compile_inputs.h"

#include <algorithm>

#include "core/error.h"
#include "train/setup.h"

namespace ctxc {
namespace {

constexpr int64_t kShortest = 16;  // below this a text is no longer than what asks for it

CompileSettings settings_of(const RunConfig& config) {
  const TrainSection& train = config.train;
  CompileSettings settings;
  settings.seed = static_cast<uint64_t>(config.run.seed);
  settings.steps = train.steps;
  settings.epochs = train.epochs;
  settings.check_every = train.valid_every;
  settings.batch = train.batch;
  settings.accumulate = train.accumulate;
  settings.lr = train.lr;
  settings.warmup = train.warmup;
  settings.final_lr = train.final_lr;
  settings.schedule = train.schedule;
  settings.clip = train.clip;
  settings.adamw = {train.betas[0], train.betas[1], train.eps, train.weight_decay};
  settings.max_new = config.queries.max_new;
  settings.continuations = config.queries.continuations;
  return settings;
}

std::shared_ptr<PerDocument> make_method(const RunConfig& config, const LlamaConfig& llama,
                                         const Prompt& prompt) {
  auto method = std::dynamic_pointer_cast<PerDocument>(
      make_compressor(config.compressor, compressor_setup(config, llama, prompt)));
  CTXC_CHECK(method, ErrorKind::kUsage, "set compressor.name=lcc, or list data.train",
             "data.contexts is for methods that compile one context at a time (found compressor.name: {})",
             config.compressor.find("name")->scalar());
  return method;
}

/// Half the items of a step are queries: a step of one item would leave one of the terms out.
void check_step(const CompileSettings& settings, const PerDocument& method) {
  const CompileRecipe& recipe = method.recipe();
  const bool both = recipe.recon.loss != "none" && recipe.lambdas().back() > 0;
  if (!both || method.groups().empty()) return;
  CTXC_CHECK(
      settings.batch * settings.accumulate >= 2, ErrorKind::kUsage,
      "set train.batch=2 or more, or turn a term off (compressor.lambda=0, compressor.recon.loss=none)",
      "train.batch: a step needs a part of the context and a random query (found {} item, expected at "
      "least 2)",
      settings.batch);
}

}  // namespace

std::vector<Tokens> cut_segments(const Tokens& tokens, int64_t longest) {
  const int64_t length = static_cast<int64_t>(tokens.size()),
                parts = std::max<int64_t>(1, (length + longest - 1) / longest);
  std::vector<Tokens> segments;
  for (int64_t i = 0; i < parts; ++i)
    segments.emplace_back(tokens.begin() + i * length / parts, tokens.begin() + (i + 1) * length / parts);
  return segments;
}

CompileInputs::CompileInputs(const RunConfig& config)
    : settings_(settings_of(config)),
      tokenizer_(Tokenizer::load(config.tokenizer_path())),
      prompt_(config.prompt, tokenizer_) {
  CTXC_CHECK(config.backbone.init == "pretrained" && !config.backbone.train, ErrorKind::kUsage,
             "name it in backbone.path", "a context is compiled for a base that stays as it is");
  queries_ = draw_queries(load_queries(config.queries.path), config.queries.count, config.queries.held_out,
                          settings_.seed);
  for (const auto* drawn : {&queries_.train, &queries_.held_out})
    for (const std::string& query : *drawn)
      longest_query_ = std::max(longest_query_, static_cast<int64_t>(prompt_.query_ids(query).size()));
  const LlamaConfig llama = config.llama(tokenizer_.vocab_size());
  window_ = llama.max_position;
  method_ = make_method(config, llama, prompt_);
  check_step(settings_, *method_);
}

Tokens CompileInputs::tokens_of(const ContextText& context) const {
  Tokens tokens = prompt_.context_ids(context.text);
  CTXC_CHECK(!tokens.empty(), ErrorKind::kInput, "give a text with at least one character",
             "{}: the context is empty", context.id);
  const size_t first = prompt_.config().context_bos ? 1 : 0;
  for (size_t i = first; i < tokens.size(); ++i)
    CTXC_CHECK(
        !tokenizer_.is_special(tokens[i]), ErrorKind::kInput,
        "remove it from the text, or write it so that it is not one token (for instance with a space inside)",
        "{}: the text holds the special token {} (token {} of {}), which the base would read as a command",
        context.id, tokenizer_.piece(tokens[i]), i, tokens.size());
  return tokens;
}

void CompileInputs::check_part(const ContextText& context, const Tokens& part, int64_t prefix) const {
  const int64_t length = static_cast<int64_t>(part.size());
  CTXC_CHECK(length >= kShortest, ErrorKind::kInput, "put so short a text into the prompt itself",
             "{}: the context is too short to compile (found {} tokens, expected at least {})", context.id,
             length, kShortest);
  const int64_t longest = std::max(
      longest_query_, longest_request(prompt_, method_->recipe().recon, part, {.seed = settings_.seed}));
  const int64_t read = longest + kQuoted + settings_.max_new;
  CTXC_CHECK(
      window_ == 0 || prefix + length + read <= window_, ErrorKind::kInput,
      "lower compressor.segment_tokens (longer contexts are then compiled in parts), compressor.recon.chunk "
      "or queries.max_new",
      "{}: the context does not fit the window of the base (found {} + {} + {} tokens of prefix, context and "
      "requests, expected at most {})",
      context.id, prefix, length, read, window_);
}

std::vector<Tokens> CompileInputs::parts_of(const ContextText& context) const {
  const std::vector<Tokens> parts = cut_segments(tokens_of(context), method_->recipe().segment_tokens);
  int64_t prefix = static_cast<int64_t>(prompt_.head_ids().size());
  for (const Tokens& part : parts) {
    check_part(context, part, prefix);
    if (chained()) prefix += method_->slots_for(static_cast<int64_t>(part.size()));
  }
  return parts;
}

int64_t CompileInputs::slots_of(const std::vector<Tokens>& parts) const {
  int64_t slots = 0;
  for (const Tokens& part : parts) slots += method_->slots_for(static_cast<int64_t>(part.size()));
  return slots;
}

}  // namespace ctxc
