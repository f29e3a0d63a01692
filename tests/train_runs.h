// What tests of the trainer share: configurations of runs that take a second.
#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "core/file.h"
#include "core/json.h"
#include "testing.h"
#include "train/run_config.h"

namespace ctxc::testing {

/// A random Llama of two layers on generated passages; `method` is the flat section `compressor`.
inline std::string tiny_run(const std::string& folder, const std::string& method = "{name: full}",
                            bool train_base = true) {
  const std::string tokenizer = (root() / "models/tiny-facts").string();
  return fmt::format(R"(run: {{name: tiny, dir: {}, seed: 3}}
backbone:
  init: random
  train: {}
  tokenizer: {}
  shape: {{hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1}}
compressor: {}
data:
  bucket_batches: 2
  train: [{{path: tiny-facts, format: synthetic, synthetic: {{count: 40, seed: 1}}}}]
  valid: [{{path: tiny-facts, format: synthetic, synthetic: {{count: 8, seed: 1, split: valid}}}}]
prompt: {{cleanup: none, answer_prompt: "", answer_prefix: " "}}
train: {{batch: 4, accumulate: 2, steps: 8, lr: 1.0e-2, warmup: 2, schedule: cosine, valid_every: 4, valid_batches: 2,
         samples: 2, save_every: 3, keep: 2}}
eval: {{max_new_tokens: 3}}
)",
                     folder, train_base, tokenizer, method);
}

inline RunConfig tiny_config(const std::string& folder, const std::vector<std::string>& overrides = {},
                             const std::string& method = "{name: full}", bool train_base = true) {
  return resolve_run_config(Yaml::parse(tiny_run(folder, method, train_base), "tiny"), overrides);
}

/// Losses of all steps in log.jsonl, in order.
inline std::vector<double> losses_of(const std::string& run_folder) {
  std::vector<double> losses;
  for_each_line(run_folder + "/log.jsonl", [&](std::string_view line, int64_t number) {
    const Json value = parse_json(line, "log.jsonl", number);
    if (value.contains("loss")) losses.push_back(value["loss"].get<double>());
  });
  return losses;
}

}  // namespace ctxc::testing
