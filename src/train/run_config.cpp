#include "train/run_config.h"

#include <algorithm>
#include <cstdlib>
#include <set>

#include "core/config_file.h"
#include "core/error.h"
#include "core/text.h"
#include "model/compressor.h"
#include "model/objective.h"
#include "train/presets.h"

namespace ctxc {
namespace {

double number_of(const Yaml& value, const std::string& key) {
  char* end = nullptr;
  const std::string text = value.kind() == Yaml::Kind::kScalar ? value.scalar() : "";
  const double number = std::strtod(text.c_str(), &end);
  CTXC_CHECK(!text.empty() && *end == 0 && number >= 0 && number < 1e30, ErrorKind::kUsage, "",
             "{}: {}: wrong value (found '{}', expected a weight of at least 0)", value.where(), key, text);
  return number;
}

void check(const RunConfig& config) {
  const TrainSection& train = config.train;
  CTXC_CHECK(train.betas.size() == 2, ErrorKind::kUsage, "write 'betas: [0.9, 0.999]'",
             "train.betas: wrong length (found {} numbers, expected 2)", train.betas.size());
  CTXC_CHECK(train.steps > 0 || train.epochs > 0, ErrorKind::kUsage, "",
             "train.steps and train.epochs are both 0: nothing to train");
  CTXC_CHECK(config.backbone.init == "random" || !config.backbone.path.empty(), ErrorKind::kUsage,
             "name a Hugging Face folder or a GGUF file, or set backbone.init: random",
             "backbone.path is missing (init is pretrained)");
  CTXC_CHECK(config.backbone.init != "random" || !config.tokenizer_path().empty(), ErrorKind::kUsage, "",
             "backbone.tokenizer is missing (init is random)");
  double sum = 0;
  for (const auto& [name, weight] : config.objective_weights()) sum += weight;
  CTXC_CHECK(sum > 0, ErrorKind::kUsage, "write 'objective: {ce: 1}'",
             "objective: no term has a weight above 0");
}

void flatten(const Yaml& node, const std::string& prefix, std::map<std::string, std::string>& leaves) {
  if (node.kind() == Yaml::Kind::kMap) {
    for (const auto& [key, value] : node.entries())
      flatten(value, prefix.empty() ? key : prefix + "." + key, leaves);
  } else if (node.kind() == Yaml::Kind::kList) {
    for (size_t i = 0; i < node.items().size(); ++i)
      flatten(node.items()[i], fmt::format("{}.{}", prefix, i), leaves);
    leaves[prefix + ".length"] = std::to_string(node.items().size());
  } else {
    leaves[prefix] = node.is_null() ? "null" : node.scalar();
  }
}

bool is_harmless(const std::string& key, const RunConfig& config) {
  static const std::vector<std::string> harmless = {"run.name",
                                                    "run.dir",
                                                    "data.root",
                                                    "data.preview",
                                                    "data.valid.",
                                                    "data.eval.",
                                                    "eval.",
                                                    "train.log_every",
                                                    "train.valid_every",
                                                    "train.valid_batches",
                                                    "train.samples",
                                                    "train.save_every",
                                                    "train.keep",
                                                    "train.init_from",
                                                    "train.init_partial",
                                                    "train.hidden_cache_gb"};
  if (config.train.schedule == "constant" && (key == "train.steps" || key == "train.epochs")) return true;
  return std::any_of(harmless.begin(), harmless.end(),
                     [&](const std::string& prefix) { return key.starts_with(prefix); });
}

}  // namespace

void RunConfig::describe(Fields& f) {
  f.section("run", run, "name, folder, seed, device");
  f.section("backbone", backbone, "the Llama that reads");
  f("compressor", compressor,
    "the method: `name` and its own keys, flat (--list compressors, --help compressor)");
  f.section("data", data, "what is read, and how text becomes examples");
  f.section("prompt", prompt, "templates and special tokens, for training, evaluation and export alike");
  f("objective", objective,
    "weights of the terms of the loss by name: registered objectives (--list objectives) and "
    "the auxiliary terms of the method; 0: logged (an objective in validation only); default {ce: 1}");
  f.section("train", train, "the loop");
  f.section("eval", eval, "what ctxc-eval measures");
  f.section("queries", queries, "random queries of methods that compile one context at a time");
}

std::string RunConfig::directory() const {
  return run.dir.empty() ? "runs/" + run.name : run.dir;
}

std::string RunConfig::tokenizer_path() const {
  return backbone.tokenizer.empty() ? backbone.path : backbone.tokenizer;
}

std::map<std::string, double> RunConfig::objective_weights() const {
  if (objective.is_null()) return {{"ce", 1.0}};
  CTXC_CHECK(objective.kind() == Yaml::Kind::kMap, ErrorKind::kUsage, "write 'objective: {ce: 1}'",
             "{}: objective: wrong type (expected a map of name: weight)", objective.where());
  std::map<std::string, double> weights;
  for (const auto& [name, weight] : objective.entries())
    weights[name] = number_of(weight, "objective." + name);
  return weights;
}

LlamaConfig RunConfig::llama(int64_t tokenizer_vocabulary) const {
  if (backbone.init == "pretrained") return LlamaConfig::load(backbone.path);
  if (!backbone.config.empty()) return LlamaConfig::load(backbone.config);
  const BackboneShape& shape = backbone.shape;
  LlamaConfig llama;
  llama.vocab_size = shape.vocab_size ? shape.vocab_size : tokenizer_vocabulary;
  llama.hidden_size = shape.hidden_size;
  llama.intermediate_size = shape.intermediate_size;
  llama.num_layers = shape.num_hidden_layers;
  llama.num_heads = shape.num_attention_heads;
  llama.num_kv_heads = shape.num_key_value_heads;
  CTXC_CHECK(shape.head_dim > 0 || shape.hidden_size % shape.num_attention_heads == 0, ErrorKind::kUsage,
             "set backbone.shape.head_dim", "backbone.shape: hidden_size {} is not a multiple of {} heads",
             shape.hidden_size, shape.num_attention_heads);
  CTXC_CHECK(shape.num_attention_heads % shape.num_key_value_heads == 0, ErrorKind::kUsage, "",
             "backbone.shape: {} heads cannot share {} key/value heads", shape.num_attention_heads,
             shape.num_key_value_heads);
  CTXC_CHECK(llama.vocab_size >= tokenizer_vocabulary, ErrorKind::kUsage,
             "leave vocab_size out to take the tokenizer's",
             "backbone.shape.vocab_size is too small for the tokenizer (found {}, expected at least {})",
             llama.vocab_size, tokenizer_vocabulary);
  llama.head_dim = shape.head_dim ? shape.head_dim : shape.hidden_size / shape.num_attention_heads;
  llama.max_position = shape.max_position_embeddings;
  llama.rope_theta = shape.rope_theta;
  llama.rms_norm_eps = shape.rms_norm_eps;
  llama.initializer_range = shape.initializer_range;
  llama.tie_word_embeddings = shape.tie_word_embeddings;
  return llama;
}

RunConfig resolve_run_config(Yaml document, const std::vector<std::string>& overrides) {
  for (const std::string& text : overrides) {
    const auto [key, value] = parse_override(text);
    document = document.with(key, value);
  }
  document = with_preset(document);
  RunConfig config;
  read_config(document, config, "");
  if (config.compressor.is_null()) config.compressor = Yaml::parse("name: comprexit", "default");
  config.compressor = resolve_compressor(config.compressor);
  if (config.objective.is_null()) config.objective = Yaml::parse("ce: 1", "default");
  if (config.data.root.empty()) {
    const char* root = std::getenv("CTXC_DATA");
    config.data.root = root ? root : "";
  }
  check(config);
  return config;
}

RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides) {
  return resolve_run_config(load_config_file(path), overrides);
}

std::string run_config_help(const std::string& key) {
  if (key.starts_with("compressor.")) {
    const std::string rest = key.substr(std::string_view("compressor.").size());
    if (compressor_registry().contains(rest)) return compressor_registry().at(rest).factory.help("");
    std::string text;
    for (const auto& [name, entry] : compressor_registry().entries()) {
      try {
        text += fmt::format("compressor.name = {}\n{}", name, entry.factory.help(rest));
      } catch (const Error&) {
        continue;  // this method has no such key
      }
    }
    CTXC_CHECK(!text.empty(), ErrorKind::kUsage, "ctxc-train --list compressors", "no method has a key '{}'",
               key);
    return text;
  }
  RunConfig config;
  Fields fields;
  config.describe(fields);
  std::string text = help_for(fields, key);
  if (key == "compressor") {
    for (const auto& [name, entry] : compressor_registry().entries())
      text += fmt::format("\ncompressor.name = {}: {}\n{}", name, entry.help, entry.factory.help(""));
  }
  return text;
}

std::vector<std::string> changed_keys(const RunConfig& before, const RunConfig& now) {
  std::map<std::string, std::string> old_leaves, new_leaves;
  flatten(Yaml::parse(dump_config(before), "checkpoint"), "", old_leaves);
  flatten(Yaml::parse(dump_config(now), "configuration"), "", new_leaves);
  std::set<std::string> keys;
  for (const auto& [key, value] : old_leaves) keys.insert(key);
  for (const auto& [key, value] : new_leaves) keys.insert(key);
  std::vector<std::string> result;
  for (const std::string& key : keys) {
    const std::string was = old_leaves.count(key) ? old_leaves[key] : "absent";
    const std::string is = new_leaves.count(key) ? new_leaves[key] : "absent";
    if (was != is && !is_harmless(key, now)) result.push_back(fmt::format("{}: {}, was {}", key, is, was));
  }
  return result;
}

}  // namespace ctxc
