#include "model/llama_config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>

#include "core/error.h"
#include "core/text.h"
#include "model/weights.h"

namespace ctxc {
namespace {

constexpr const char* kSupported =
    "supported: Llama models (model_type llama, activation silu, no biases, RoPE plain or llama3), e.g. "
    "Llama-2, Llama-3.x, "
    "SmolLM2, TinyLlama";
constexpr int64_t kMaxExtent = int64_t{1} << 31;

/// Reads keys of config.json and collects every problem instead of stopping at the first.
class ConfigReader {
 public:
  ConfigReader(const Json& json, std::string origin) : json_(json), origin_(std::move(origin)) {}

  bool has(const std::string& key) const { return json_.contains(key) && !json_[key].is_null(); }
  const Json& at(const std::string& key) const { return json_[key]; }
  void problem(std::string text) { problems_.push_back(std::move(text)); }

  template <class T>
  T get(const std::string& key, T fallback) {
    if (!has(key)) return fallback;
    try {
      return json_at<T>(json_, key, origin_);
    } catch (const Error& error) {
      problem(std::string(error.what()).substr(origin_.size() + 2));
      return fallback;
    }
  }
  int64_t positive(const std::string& key, std::optional<int64_t> fallback = std::nullopt) {
    if (!has(key) && !fallback) {
      problem(fmt::format("key '{}' is missing", key));
      return 1;
    }
    const auto value = get<int64_t>(key, fallback.value_or(1));
    if (value > 0 && value < kMaxExtent) return value;
    problem(fmt::format("key '{}' is out of range (found {}, expected 1 to 2^31-1)", key, value));
    return 1;
  }
  double above_zero(const std::string& key, double fallback) {
    const auto value = get<double>(key, fallback);
    if (!(value > 0) || std::isinf(value))
      problem(fmt::format("key '{}' is out of range (found {}, expected above 0)", key, value));
    return value;
  }
  /// A token id, or nothing (null, absent, or -1 as some files say it).
  std::optional<int64_t> token(const std::string& key) {
    if (!has(key)) return std::nullopt;
    const auto id = get<int64_t>(key, -1);
    if (id < -1) problem(fmt::format("key '{}' is out of range (found {}, expected 0 or more)", key, id));
    return id >= 0 ? std::optional(id) : std::nullopt;
  }
  void finish() const {
    CTXC_CHECK(problems_.empty(), ErrorKind::kInput, kSupported, "{}: {}", origin_, join(problems_, "; "));
  }

 private:
  const Json& json_;
  std::string origin_;
  std::vector<std::string> problems_;
};

/// transformers 4.x: rope_theta + rope_scaling; 5.x: all in rope_parameters.
void read_rope(ConfigReader& in, LlamaConfig& config, const std::string& origin) {
  config.rope_theta = in.above_zero("rope_theta", config.rope_theta);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!in.has(key)) continue;
    if (!in.at(key).is_object()) {
      in.problem(fmt::format("key '{}' is not an object (found {})", key, in.at(key).type_name()));
      continue;
    }
    ConfigReader rope(in.at(key), origin);
    try {
      config.rope_theta = rope.above_zero("rope_theta", config.rope_theta);
      const auto type = rope.get<std::string>("rope_type", rope.get<std::string>("type", "default"));
      if (type == "llama3") {
        RopeScaling scaling;
        scaling.factor = rope.above_zero("factor", scaling.factor);
        scaling.low_freq_factor = rope.above_zero("low_freq_factor", scaling.low_freq_factor);
        scaling.high_freq_factor = rope.above_zero("high_freq_factor", scaling.high_freq_factor);
        scaling.original_max_position = rope.positive("original_max_position_embeddings");
        if (scaling.high_freq_factor <= scaling.low_freq_factor)
          rope.problem("high_freq_factor is not above low_freq_factor");
        config.rope_scaling = scaling;
      } else if (type != "default") {
        rope.problem(
            fmt::format("RoPE type is not supported (found '{}', expected default or llama3)", type));
      }
      rope.finish();
    } catch (const Error& error) {
      in.problem(fmt::format("{}: {}", key, std::string(error.what()).substr(origin.size() + 2)));
    }
  }
}

/// What would make the numbers wrong if it were ignored.
void refuse_other_models(ConfigReader& in) {
  const auto type = in.get<std::string>("model_type", "");
  if (type != "llama")
    in.problem(fmt::format("model_type is not supported (found '{}', expected 'llama')", type));
  const auto activation = in.get<std::string>("hidden_act", "silu");
  if (activation != "silu")
    in.problem(fmt::format("hidden_act is not supported (found '{}', expected 'silu')", activation));
  for (const char* key : {"attention_bias", "mlp_bias"})
    if (in.get<bool>(key, false))
      in.problem(fmt::format("{} is not supported (found true, expected false)", key));
  if (in.has("quantization_config"))
    in.problem("quantization_config is not supported (expected plain weights or a GGUF file)");
}

/// What holds between the numbers, wherever they came from.
void check_shapes(const LlamaConfig& config, const std::function<void(std::string)>& problem) {
  if (config.num_heads % config.num_kv_heads != 0)
    problem(
        fmt::format("{} query heads cannot share {} key/value heads", config.num_heads, config.num_kv_heads));
  if (config.head_dim % 2 != 0)
    problem(fmt::format("head width must be even for RoPE (found {})", config.head_dim));
}

/// Llama-3.1's division of the inverse frequency `frequency`.
double scaling_factor(const RopeScaling& scaling, double frequency) {
  const double turns = static_cast<double>(scaling.original_max_position) * frequency / (2 * M_PI);
  if (turns > scaling.high_freq_factor) return 1;
  if (turns < scaling.low_freq_factor) return scaling.factor;
  const double smooth =
      (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
  return 1 / ((1 - smooth) / scaling.factor + smooth);
}

/// GGUF stores the scaling only as the divisors it leads to (rope_freqs.weight). They must be those of
/// Llama 3.
RopeScaling scaling_from_factors(const GgufFile& file, const LlamaConfig& config) {
  const GgufTensor& tensor = file.tensors().at("rope_freqs.weight");
  const std::string where = file.path() + ": tensor 'rope_freqs.weight'";
  CTXC_CHECK(tensor.numel() == config.head_dim / 2, ErrorKind::kInput, kSupported,
             "{}: wrong size (found {}, expected {})", where, tensor.numel(), config.head_dim / 2);
  std::vector<float> factors(static_cast<size_t>(tensor.numel()));
  dequantize(tensor, factors);
  RopeScaling scaling;
  scaling.factor = *std::max_element(factors.begin(), factors.end());
  if (file.contains("llama.rope.scaling.original_context_length"))
    scaling.original_max_position = file.integer("llama.rope.scaling.original_context_length");
  for (size_t i = 0; i < factors.size(); ++i) {
    const double frequency =
        std::pow(config.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(config.head_dim));
    const double expected = scaling_factor(scaling, frequency);
    CTXC_CHECK(std::abs(factors[i] - expected) <= 1e-3 * expected, ErrorKind::kInput, kSupported,
               "{}: not a RoPE scaling of Llama 3 (factor {} found {}, expected {})", where, i, factors[i],
               expected);
  }
  return scaling;
}

}  // namespace

LlamaConfig LlamaConfig::from_json(const Json& json, const std::string& origin) {
  CTXC_CHECK(json.is_object(), ErrorKind::kInput, "", "{}: not an object (found {})", origin,
             json.type_name());
  ConfigReader in(json, origin);
  refuse_other_models(in);
  LlamaConfig config;
  config.vocab_size = in.positive("vocab_size");
  config.hidden_size = in.positive("hidden_size");
  config.num_layers = in.positive("num_hidden_layers");
  config.num_heads = in.positive("num_attention_heads");
  config.intermediate_size = in.positive("intermediate_size");
  config.num_kv_heads = in.positive("num_key_value_heads", config.num_heads);
  config.head_dim = in.positive("head_dim", std::max<int64_t>(1, config.hidden_size / config.num_heads));
  if (!in.has("head_dim") && config.hidden_size % config.num_heads != 0)
    in.problem(fmt::format("hidden_size {} is not a multiple of {} heads and head_dim is absent",
                           config.hidden_size, config.num_heads));
  config.max_position =
      in.positive("max_position_embeddings", 2048);  // the defaults here are those of transformers
  config.rms_norm_eps = in.above_zero("rms_norm_eps", 1e-6);
  config.initializer_range = in.above_zero("initializer_range", config.initializer_range);
  config.tie_word_embeddings = in.get<bool>("tie_word_embeddings", false);
  read_rope(in, config, origin);
  config.bos = in.token("bos_token_id");
  config.pad = in.token("pad_token_id");
  if (in.has("eos_token_id") && in.at("eos_token_id").is_array()) {
    for (const Json& id : in.at("eos_token_id")) {
      if (detail::json_holds<int64_t>(id) && id.get<int64_t>() >= 0)
        config.eos.push_back(id.get<int64_t>());
      else
        in.problem("key 'eos_token_id' holds something else than token ids");
    }
  } else if (const auto eos = in.token("eos_token_id")) {
    config.eos = {*eos};
  }
  check_shapes(config, [&](std::string text) { in.problem(std::move(text)); });
  in.finish();
  return config;
}

LlamaConfig LlamaConfig::from_gguf(const GgufFile& file) {
  std::vector<std::string> problems;
  const auto problem = [&](std::string text) { problems.push_back(std::move(text)); };
  const auto architecture = file.string("general.architecture");
  CTXC_CHECK(architecture == "llama", ErrorKind::kInput, kSupported,
             "{}: architecture is not supported (found '{}', expected 'llama')", file.path(), architecture);
  const auto positive = [&](const std::string& key, std::optional<int64_t> fallback = std::nullopt) {
    const std::string full = "llama." + key;
    if (fallback && !file.contains(full)) return *fallback;
    int64_t value = 1;
    try {
      value = file.integer(full);
      if (value <= 0 || value >= kMaxExtent)
        problem(fmt::format("key '{}' is out of range (found {}, expected 1 to 2^31-1)", full, value));
    } catch (const Error& error) {
      problem(std::string(error.what()).substr(file.path().size() + 2));
    }
    return std::clamp<int64_t>(value, 1, kMaxExtent - 1);
  };
  LlamaConfig config;
  config.num_layers = positive("block_count");
  config.hidden_size = positive("embedding_length");
  config.intermediate_size = positive("feed_forward_length");
  config.num_heads = positive("attention.head_count");
  config.num_kv_heads = positive("attention.head_count_kv", config.num_heads);
  config.head_dim =
      positive("attention.key_length", std::max<int64_t>(1, config.hidden_size / config.num_heads));
  config.max_position = positive("context_length");
  if (positive("attention.value_length", config.head_dim) != config.head_dim)
    problem("keys and values of different width are not supported");
  if (positive("rope.dimension_count", config.head_dim) != config.head_dim)
    problem("RoPE over a part of the head is not supported");
  if (file.contains("llama.expert_count") && file.integer("llama.expert_count") > 0)
    problem("mixtures of experts are not supported");
  const auto embedding = file.tensors().find("token_embd.weight");
  if (embedding == file.tensors().end() || embedding->second.shape.size() != 2)
    problem("tensor 'token_embd.weight' is missing or not a matrix");
  else
    config.vocab_size = embedding->second.shape[0];
  config.rms_norm_eps = file.number("llama.attention.layer_norm_rms_epsilon");
  if (file.contains("llama.rope.freq_base")) config.rope_theta = file.number("llama.rope.freq_base");
  if (!(config.rms_norm_eps > 0) || !(config.rope_theta > 0))
    problem("norm epsilon and RoPE base must be above 0");
  config.tie_word_embeddings = !file.tensors().contains("output.weight");
  const auto scaling =
      file.contains("llama.rope.scaling.type") ? file.string("llama.rope.scaling.type") : "none";
  if (scaling != "none")
    problem(fmt::format("RoPE scaling is not supported (found '{}', expected none)", scaling));
  const auto token = [&](const std::string& key) {
    const std::string full = "tokenizer.ggml." + key;
    return file.contains(full) ? std::optional(file.integer(full)) : std::nullopt;
  };
  config.bos = token("bos_token_id");
  config.pad = token("padding_token_id");
  for (const char* key : {"eos_token_id", "eot_token_id"}) {
    const auto id = token(key);
    if (id && std::find(config.eos.begin(), config.eos.end(), *id) == config.eos.end())
      config.eos.push_back(*id);
  }
  check_shapes(config, problem);
  CTXC_CHECK(problems.empty(), ErrorKind::kInput, kSupported, "{}: {}", file.path(), join(problems, "; "));
  if (file.tensors().contains("rope_freqs.weight")) config.rope_scaling = scaling_from_factors(file, config);
  return config;
}

LlamaConfig LlamaConfig::load(const std::string& path) {
  if (is_gguf(path)) return from_gguf(GgufFile(path));
  std::error_code unreadable;
  const std::string file = std::filesystem::is_directory(path, unreadable)
                               ? (std::filesystem::path(path) / "config.json").string()
                               : path;
  return from_json(read_json_file(file), file);
}

OrderedJson LlamaConfig::to_json() const {
  const auto id = [](const std::optional<int64_t>& token) {
    return token ? OrderedJson(*token) : OrderedJson(nullptr);
  };
  OrderedJson json = {{"architectures", {"LlamaForCausalLM"}},
                      {"model_type", "llama"},
                      {"vocab_size", vocab_size},
                      {"hidden_size", hidden_size},
                      {"intermediate_size", intermediate_size},
                      {"num_hidden_layers", num_layers},
                      {"num_attention_heads", num_heads},
                      {"num_key_value_heads", num_kv_heads},
                      {"head_dim", head_dim},
                      {"hidden_act", "silu"},
                      {"attention_bias", false},
                      {"mlp_bias", false},
                      {"max_position_embeddings", max_position},
                      {"rms_norm_eps", rms_norm_eps},
                      {"rope_theta", rope_theta},
                      {"rope_scaling", nullptr},
                      {"tie_word_embeddings", tie_word_embeddings},
                      {"initializer_range", initializer_range},
                      {"bos_token_id", id(bos)},
                      {"pad_token_id", id(pad)}};
  if (rope_scaling)
    json["rope_scaling"] = {{"rope_type", "llama3"},
                            {"factor", rope_scaling->factor},
                            {"low_freq_factor", rope_scaling->low_freq_factor},
                            {"high_freq_factor", rope_scaling->high_freq_factor},
                            {"original_max_position_embeddings", rope_scaling->original_max_position}};
  json["eos_token_id"] = eos.size() == 1 ? OrderedJson(eos[0])
                         : eos.empty()   ? OrderedJson(nullptr)
                                         : OrderedJson(eos);
  return json;
}

int64_t LlamaConfig::parameter_count() const {
  int64_t total = 0;
  for (const auto& [name, shape] : llama_tensor_shapes(*this)) {
    int64_t count = 1;
    for (const int64_t extent : shape) count *= extent;
    total += count;
  }
  return total;
}

}  // namespace ctxc
