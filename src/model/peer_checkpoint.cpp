#include "model/peer_checkpoint.h"

#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/text.h"
#include "data/tokenizer.h"
#include "model/parameters.h"
#include "model/weights.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

std::string config_path(const std::string& path) {
  return (fs::path(path) / "config.json").string();
}

/// Configuration of the checkpoint's Llama, with the special tokens' roles: the tokenizer's files come first,
/// then config.json, then the base.
LlamaConfig llama_of(const std::string& path, const Json& config, const std::string& base) {
  const std::string origin = config_path(path);
  LlamaConfig llama = LlamaConfig::from_json(json_at<Json>(config, "backbone_config_dict", origin),
                                             origin + ": backbone_config_dict");
  if (!base.empty()) {
    const LlamaConfig known = LlamaConfig::load(base);
    if (!llama.bos) llama.bos = known.bos;
    if (!llama.pad) llama.pad = known.pad;
    if (llama.eos.empty()) llama.eos = known.eos;
  }
  if (fs::exists(fs::path(path) / "tokenizer.json")) {
    const Tokenizer tokenizer = Tokenizer::load(path);
    if (tokenizer.bos()) llama.bos = *tokenizer.bos();
    if (tokenizer.eos()) llama.eos = {*tokenizer.eos()};
    if (tokenizer.pad()) llama.pad = *tokenizer.pad();
  }
  if (!llama.pad && !llama.eos.empty()) llama.pad = llama.eos[0];
  return llama;
}

/// Differences between the checkpoint's Llama and the base it is said to stand on.
std::vector<std::string> differences(const TensorMap& found, const TensorMap& base) {
  std::vector<std::string> result;
  for (const auto& [name, expected] : base) {
    const auto it = found.find(name);
    if (it == found.end()) {
      result.push_back(name + " is missing");
      continue;
    }
    Tensor tensor = it->second;
    const bool grows = name == "model.embed_tokens.weight" || name == "lm_head.weight";
    if (grows && tensor.dim() == 2 && tensor.size(0) > expected.size(0))
      tensor = tensor.slice(0, 0, expected.size(0));
    if (tensor.sizes() != expected.sizes())
      result.push_back(fmt::format("{} has another shape", name));
    else if (!at::equal(tensor, expected.to(tensor.scalar_type())))
      result.push_back(fmt::format("{} has other values", name));
  }
  for (const auto& [name, tensor] : found)
    if (!base.count(name)) result.push_back(name + " is not in the base");
  return result;
}

void check_base(const TensorMap& found, const std::string& path, const std::string& base) {
  LlamaConfig config = LlamaConfig::load(base);
  const auto different = differences(found, load_llama_weights(base, config));
  CTXC_CHECK(different.empty(), ErrorKind::kInput,
             "name the base model this checkpoint was trained on, or none",
             "{}: the Llama in it is not {}: {}", path, base, join(different, "; "));
}

/// `value` as YAML text with as many digits as it needs.
std::string number(double value) {
  return fmt::format("{}", value);
}

}  // namespace

bool is_peer_checkpoint(const std::string& path) {
  if (!fs::is_regular_file(config_path(path))) return false;
  const Json config = read_json_file(config_path(path));
  if (!config.is_object()) return false;
  const auto type = config.find("model_type");
  if (type != config.end() && type->is_string() && *type == "hierarchical_compressor") return true;
  const auto classes = config.find("architectures");
  return classes != config.end() && classes->is_array() && !classes->empty() &&
         (*classes)[0] == "HierarchicalCompressor";
}

Yaml peer_compressor_section(const Json& config, const std::string& origin) {
  const auto integer = [&](const char* key, int64_t fallback) {
    return json_or<int64_t>(config, key, fallback, origin);
  };
  const auto real = [&](const char* key, double fallback) {
    return json_or<double>(config, key, fallback, origin);
  };
  const auto flag = [&](const char* key) { return json_or<bool>(config, key, false, origin); };
  const std::string method = json_or<std::string>(config, "pooling_method", "ot-dy-src", origin);
  std::vector<std::string> problems;
  const std::set<std::string> known = {"ot", "ot-dy-src", "ot-dy-src-single-layer"};
  if (!known.count(method))
    problems.push_back(
        fmt::format("pooling_method (found '{}', expected ot, ot-dy-src or ot-dy-src-single-layer)", method));
  for (const char* key : {"lora_compressor", "add_global_avg", "ab_ot_shuffle_anchors"})
    if (flag(key)) problems.push_back(fmt::format("{} (found true, expected false)", key));
  CTXC_CHECK(problems.empty(), ErrorKind::kInput,
             "only the published configuration and its transport variants are read", "{}: not supported: {}",
             origin, join(problems, "; "));

  const int64_t layers = integer("top_k_layers", -1);
  std::string text = "name: comprexit\n";
  const auto add = [&](const char* key, const std::string& value) {
    text += fmt::format("{}: {}\n", key, value);
  };
  add("ratio", std::to_string(integer("ot_compression_ratio", integer("compression_ratio", 4))));
  add("window", std::to_string(integer("ot_window_size", 128)));
  add("gate_width", std::to_string(integer("layerwise_pooling_gate_hidden", 256)));
  add("metric_width", std::to_string(integer("ot_metric_dim", 256)));
  add("sinkhorn_iterations", std::to_string(integer("ot_n_iter", 30)));
  add("epsilon", number(real("ot_eps", 0.1)));
  add("gate_temperature", number(real("layerwise_pooling_temperature", 0.7)));
  add("source_mass", method == "ot" ? "uniform" : "learned");
  add("source_floor", number(real("ot_source_lam_floor", 0.05)));
  add("source_temperature", number(real("ot_source_tau", 1)));
  add("layers", std::to_string(std::max<int64_t>(layers, 0)));
  if (method == "ot-dy-src-single-layer")
    add("single_layer", std::to_string(integer("layer_index_selected", -1)));
  add("projector_depth", std::to_string(integer("num_hidden_layers", 2)));
  add("projector_gain", number(real("projector_gain", 0.4)));
  add("grid", "padded");
  add("positions", "column");
  if (flag("trained_with_map_reduce"))
    add("map_reduce_segment", std::to_string(integer("map_reduce_seg_len", 512)));
  return Yaml::parse(text, origin);
}

PeerMethod load_peer_method(const std::string& path, const std::string& base,
                            const std::vector<std::string>& overrides, const BackboneOptions& options) {
  const std::string origin = config_path(path);
  const Json config = read_json_file(origin);
  PeerMethod result;
  Yaml section = peer_compressor_section(config, origin);
  for (const std::string& text : overrides) {
    const auto [key, value] = parse_override(text);
    CTXC_CHECK(key.starts_with("compressor."), ErrorKind::kUsage, "write compressor.<key>=<value>",
               "override '{}': only the compressor's keys apply to a checkpoint", text);
    section = section.with(key.substr(11), value);
  }
  result.section = section;
  result.context_length = json_or<int64_t>(config, "context_length", 512, origin);

  LlamaConfig llama = llama_of(path, config, base);
  TensorMap weights = load_llama_weights(path, llama, "lm.", /*allow_extra_rows=*/true);
  if (!base.empty()) check_base(weights, path, base);
  TensorMap parameters = load_tensors(path);
  std::erase_if(parameters, [](const auto& entry) { return entry.first.starts_with("lm."); });

  result.backbone = Backbone::from_weights(llama, std::move(weights), options, path);
  CompressorSetup setup{.backbone = llama, .head_ids = {}, .seed = 0};
  if (llama.bos) setup.head_ids = {*llama.bos};
  result.compressor = make_compressor(section, setup);
  load_parameters(*result.compressor, parameters, path);
  result.compressor->to(result.backbone->device());
  return result;
}

}  // namespace ctxc
