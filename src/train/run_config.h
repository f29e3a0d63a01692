// The configuration of a run: every section of a config file (interface.md section 2), read strictly, and the
// resolved form that the run folder keeps.
#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/config.h"
#include "data/prompt.h"
#include "data/source.h"
#include "eval/eval_config.h"
#include "model/llama_config.h"

namespace ctxc {

struct RunSection {
  std::string name = "run";
  std::string dir;  // empty: runs/<name>
  int64_t seed = 0;
  std::string device = "cpu";
  std::string dtype = "auto";
  int64_t threads = 0;
  void describe(Fields& f);
};

/// The numbers of a Llama made from scratch, under the names of a Hugging Face config.json.
struct BackboneShape {
  int64_t vocab_size = 0, hidden_size = 128, intermediate_size = 384, num_hidden_layers = 4;
  int64_t num_attention_heads = 4, num_key_value_heads = 4, head_dim = 0, max_position_embeddings = 2048;
  double rope_theta = 10000, rms_norm_eps = 1e-5, initializer_range = 0.02;
  bool tie_word_embeddings = true;
  void describe(Fields& f);
};

struct BackboneSection {
  std::string path;
  std::string init = "pretrained";
  bool train = false;
  std::string tokenizer;
  std::string config;
  BackboneShape shape;
  void describe(Fields& f);
};

struct DataSection {
  std::string root;
  std::vector<SourceConfig> train, valid, eval;
  std::vector<std::string> contexts;
  ExampleRules rules;
  bool padded = false;
  std::string mix = "examples";
  int64_t bucket_batches = 16, max_queries = 0, preview = 1;
  void describe(Fields& f);
};

/// Random queries of methods that compile one context at a time.
struct QuerySection {
  std::string path;
  int64_t count = 128, held_out = 16, continuations = 0, max_new = 128;
  void describe(Fields& f);
};

struct TrainSection {
  int64_t batch = 8, accumulate = 1, steps = 1000;
  double epochs = 0;
  double lr = 1e-4, warmup = 0, final_lr = 0;
  std::string schedule = "linear";
  std::vector<double> betas = {0.9, 0.999};
  double eps = 1e-8, weight_decay = 0, clip = 1;
  std::string gradient = "mean";
  std::string init_from;
  bool init_partial = false;
  std::string hidden_cache;
  double hidden_cache_gb = 20;
  int64_t log_every = 1, valid_every = 0, valid_batches = 8, samples = 4;
  int64_t save_every = 200, keep = 2;
  bool keep_best = true, deterministic = true;
  void describe(Fields& f);
};

struct RunConfig {
  RunSection run;
  BackboneSection backbone;
  Yaml compressor;  ///< flat: name and the method's own keys; resolved by load_run_config()
  DataSection data;
  PromptConfig prompt;
  Yaml objective;  ///< name -> weight
  TrainSection train;
  EvalConfig eval;
  QuerySection queries;
  void describe(Fields& f);

  std::string directory() const;  ///< the run folder
  std::map<std::string, double> objective_weights() const;
  std::string tokenizer_path() const;
  /// The Llama of this run without its weights: of `backbone.path`, or of `config` / `shape` where init is
  /// random.
  LlamaConfig llama(int64_t tokenizer_vocabulary) const;
};

/// Reads a file, applies `overrides` ("key=value"), checks every key and resolves defaults (the method's
/// keys, the environment's CTXC_DATA). Error kUsage.
RunConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides);
/// The same from YAML already parsed (a checkpoint's record).
RunConfig resolve_run_config(Yaml document, const std::vector<std::string>& overrides = {});

/// Help of a dotted key, "" = all sections. Keys of a method: `compressor.<key>` of the methods that have it.
std::string run_config_help(const std::string& key);

/// Keys that differ between two resolved configurations and would change what a resumed run computes:
/// "train.lr: 0.1, was 0.2". Names, intervals of logging and saving, and everything about validation may
/// differ.
std::vector<std::string> changed_keys(const RunConfig& before, const RunConfig& now);

}  // namespace ctxc
