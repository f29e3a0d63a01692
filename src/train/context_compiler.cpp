#include "train/context_compiler.h"

#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "data/prompt_record.h"
#include "model/memory_edit.h"
#include "model/memory_record.h"
#include "train/setup.h"

namespace ctxc {
namespace {

constexpr double kReloadTolerance = 1e-3;

CompileSettings settings_of(const RunConfig& config) {
  const TrainSection& train = config.train;
  CompileSettings settings;
  settings.seed = static_cast<uint64_t>(config.run.seed);
  settings.steps = train.steps;
  settings.epochs = train.epochs;
  settings.check_every = train.valid_every;
  settings.batch = train.batch;
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

double relative_gap(double found, double expected) {
  return std::abs(found - expected) / std::max(std::abs(expected), 1e-3);
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

ContextCompiler::ContextCompiler(const RunConfig& config)
    : config_(config), settings_(settings_of(config)), tokenizer_(Tokenizer::load(config.tokenizer_path())) {
  CTXC_CHECK(config.backbone.init == "pretrained" && !config.backbone.train, ErrorKind::kUsage,
             "name it in backbone.path", "a context is compiled for a base that stays as it is");
  prompt_ = std::make_unique<Prompt>(config.prompt, tokenizer_);
  queries_ = draw_queries(load_queries(config.queries.path), config.queries.count, config.queries.held_out,
                          settings_.seed);
  method_ = make_method(config, config.llama(tokenizer_.vocab_size()), *prompt_);
  BackboneOptions options;
  options.dtype = config.run.dtype;
  options.device = device_of(config);
  backbone_ = Backbone::load(config.backbone.path, options);
  const std::string& trained = method_->recipe().warm_start;
  if (!trained.empty()) warm_start_ = std::make_unique<WarmStart>(trained, *backbone_);
}

Tokens ContextCompiler::tokens_of(const ContextText& context) const {
  Tokens tokens = prompt_->context_ids(context.text);
  CTXC_CHECK(!tokens.empty(), ErrorKind::kInput, "give a text with at least one character",
             "{}: the context is empty", context.id);
  const size_t first = prompt_->config().context_bos ? 1 : 0;
  for (size_t i = first; i < tokens.size(); ++i)
    CTXC_CHECK(
        !tokenizer_.is_special(tokens[i]), ErrorKind::kInput,
        "remove it from the text, or write it so that it is not one token (for instance with a space inside)",
        "{}: the text holds the special token {} (token {} of {}), which the base would read as a command",
        context.id, tokenizer_.piece(tokens[i]), i, tokens.size());
  return tokens;
}

std::optional<MemoryArtifact> ContextCompiler::compile_segment(const Document& document,
                                                               const CompileWatcher& watcher,
                                                               Memory& memory) {
  compiler_.reset();
  document_ = std::make_unique<Document>(document);
  if (warm_start_)
    document_->start_KD = warm_start_->slots(document.context, method_->slots_for(document.length()));
  compiler_ =
      std::make_unique<DocumentCompiler>(*backbone_, *prompt_, *method_, *document_, queries_, settings_);
  std::optional<CompileOutcome> outcome = compiler_->run(watcher);
  if (!outcome) return std::nullopt;
  memory = outcome->chosen.memory;
  chosen_ = outcome->chosen;
  std::string name = config_.compressor.find("name")->scalar();
  const Yaml* optimise = config_.compressor.find("optimise");
  if (optimise && optimise->scalar() != "lora") name += " (optimise: " + optimise->scalar() + ")";
  MemoryArtifact artifact = memory.kv.empty()
                                ? make_memory_artifact(memory, 0, *backbone_, tokenizer_, name)
                                : make_kv_artifact(memory.kv, document.header, *backbone_, tokenizer_, name);
  artifact = stored_as(artifact, method_->recipe().storage);
  // What is stated is what a reader of the file gets: after rounding to the stored type.
  const CompileNumbers exact = outcome->chosen.numbers;
  outcome->chosen.numbers = compiler_->measure(memory_of(artifact, *backbone_));
  artifact.info["context"] = {{"sha256", nullptr}, {"n_tokens", document.length()}, {"truncated", false}};
  artifact.info["metrics"] = compile_metrics(*outcome);
  artifact.info["metrics"]["before_storage"] = {{"heldout_kl", exact.kl_q}, {"probe_nll", exact.nll_m}};
  artifact.info["metrics"]["last"] = {{"step", outcome->last.step},
                                      {"heldout_kl", outcome->last.numbers.kl_q},
                                      {"probe_nll", outcome->last.numbers.nll_m}};
  for (const std::string& gate : outcome->failed) log_warning("the compile failed a gate: " + gate);
  return artifact;
}

std::optional<MemoryArtifact> ContextCompiler::compile_chained(const std::vector<Tokens>& parts,
                                                               const CompileWatcher& watcher) {
  MemoryArtifact artifact;
  OrderedJson metrics = OrderedJson::array();
  Memory memory;
  int64_t tokens = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Document document = read_document(*backbone_, prompt_->head_ids(), parts[i], memory.kv);
    std::optional<MemoryArtifact> part = compile_segment(document, watcher, memory);
    if (!part) return std::nullopt;
    metrics.push_back(part->info["metrics"]);
    tokens += document.length();
    artifact = std::move(*part);
  }
  artifact.info["context"]["n_tokens"] = tokens;
  if (parts.size() > 1) artifact.info["metrics"] = {{"segments", metrics}};
  return artifact;
}

std::optional<MemoryArtifact> ContextCompiler::compile(const ContextText& context,
                                                       const CompileWatcher& watcher) {
  const Tokens tokens = tokens_of(context);
  const CompileRecipe& recipe = method_->recipe();
  const std::vector<Tokens> parts = cut_segments(tokens, recipe.segment_tokens);
  segments_ = static_cast<int64_t>(parts.size());
  std::optional<MemoryArtifact> artifact;
  if (parts.size() == 1 || recipe.segments == "chained") {
    artifact = compile_chained(parts, watcher);
  } else {
    std::vector<MemoryArtifact> segments;
    OrderedJson metrics = OrderedJson::array();
    for (const Tokens& part : parts) {
      Memory memory;
      std::optional<MemoryArtifact> segment =
          compile_segment(read_document(*backbone_, prompt_->head_ids(), part), watcher, memory);
      if (!segment) return std::nullopt;
      metrics.push_back(segment->info["metrics"]);
      segments.push_back(std::move(*segment));
    }
    artifact =
        stored_as(compose(segments, std::vector<std::string>(segments.size(), context.id)), recipe.storage);
    artifact->info["metrics"] = {{"segments", metrics}};
  }
  if (!artifact) return std::nullopt;
  const int64_t slots = artifact->rows() - artifact->header();
  artifact->info["context"]["sha256"] = sha256_hex(context.text);
  artifact->info["ratio"] = static_cast<double>(tokens.size()) / static_cast<double>(slots);
  artifact->info["segments"] = parts.size();
  artifact->info["prompt"] = prompt_record(*prompt_);
  artifact->info["resume_text"] = prompt_->config().question_prefix;
  return artifact;
}

LoraArtifact ContextCompiler::lora() const {
  CTXC_CHECK(chosen_.parameters.contains("lora"), ErrorKind::kUsage, "set compressor.optimise=lora",
             "the compile has no adapters to keep");
  CTXC_CHECK(segments_ == 1, ErrorKind::kUsage, "raise compressor.segment_tokens",
             "every segment has adapters of its own: those of {} segments cannot be kept", segments_);
  LoraArtifact lora;
  if (const Yaml* section = config_.compressor.find("lora"))
    read_config(*section, lora.config, "compressor.lora");
  lora.tensors = chosen_.parameters.at("lora");
  lora.buffers_KD = chosen_.parameters.at("buffers").at("buffers");
  lora.info["format_version"] = 1;
  lora.info["method"] = config_.compressor.find("name")->scalar();
  lora.info["step"] = chosen_.step;
  lora.info["header_token_ids"] = prompt_->head_ids();
  lora.info["model"] = model_record(*backbone_);
  return lora;
}

void ContextCompiler::save(const std::string& path, const MemoryArtifact& artifact) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  if (!parent.empty()) make_directories(parent.string());
  save_memory(path, artifact);
  const MemoryArtifact back = load_memory(path);
  check_memory_fits(back, *backbone_, tokenizer_, false);
  const OrderedJson& metrics = back.info["metrics"];
  if (metrics.contains("segments")) return;  // of several parts no single document can be measured
  const CompileNumbers numbers = compiler_->measure(memory_of(back, *backbone_));
  const double kl = metrics["heldout_kl"].get<double>(), nll = metrics["probe_nll"].get<double>();
  CTXC_CHECK(
      relative_gap(numbers.kl_q, kl) <= kReloadTolerance &&
          relative_gap(numbers.nll_m, nll) <= kReloadTolerance,
      ErrorKind::kInternal, "please report this",
      "{}: the written memory reads differently from the measured one (heldout_kl {} and {}, probe_nll {} "
      "and {})",
      path, numbers.kl_q, kl, numbers.nll_m, nll);
}

}  // namespace ctxc
