#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"
#include "model/parameters.h"
#include "model/peer_checkpoint.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

/// One setting of the section, parsed as JSON (its scalars are JSON or plain words).
Json setting(const Yaml& section, const std::string& key) {
  const Yaml* node = section.find(key);
  CTXC_CHECK(node, ErrorKind::kInternal, "", "compressor.{}: missing from the resolved section", key);
  if (node->is_null()) return nullptr;
  const Json value = Json::parse(node->scalar(), nullptr, /*allow_exceptions=*/false);
  return value.is_discarded() ? Json(node->scalar()) : value;
}

/// The peer's config.json for a resolved `comprexit` section.
OrderedJson peer_config(const Yaml& section, const LlamaConfig& llama, int64_t context_length) {
  const auto get = [&](const char* key) { return setting(section, key); };
  const bool single = !get("single_layer").is_null(), learned = get("source_mass") == "learned";
  std::vector<std::string> problems;
  if (get("init") != "paper")
    problems.push_back("init: residual (its slots contain embeddings the peer does not add)");
  if (single && !learned) problems.push_back("single_layer with source_mass: uniform");
  CTXC_CHECK(problems.empty(), ErrorKind::kUsage, "train with compressor.init: paper to export to the peer",
             "export to the ComprExIT repository: it has no such setting: {}", join(problems, "; "));
  const Json layers = get("layers"), piece = get("map_reduce_segment");
  OrderedJson config;
  config["architectures"] = {"HierarchicalCompressor"};
  config["model_type"] = "hierarchical_compressor";
  config["pooling_method"] = single ? "ot-dy-src-single-layer" : learned ? "ot-dy-src" : "ot";
  config["compression_ratio"] = get("ratio");
  config["context_length"] = context_length;
  config["ot_window_size"] = get("window");
  config["ot_n_iter"] = get("sinkhorn_iterations");
  config["ot_metric_dim"] = get("metric_width");
  config["ot_eps"] = get("epsilon");
  config["ot_source_tau"] = get("source_temperature");
  config["ot_source_lam_floor"] = get("source_floor");
  config["layerwise_pooling_gate_hidden"] = get("gate_width");
  config["layerwise_pooling_temperature"] = get("gate_temperature");
  if (single) config["layer_index_selected"] = get("single_layer");
  config["top_k_layers"] = layers == 0 ? Json(-1) : layers;
  config["num_hidden_layers"] = get("projector_depth");
  config["projector_gain"] = get("projector_gain");
  config["hidden_size"] = llama.hidden_size;
  config["trained_with_map_reduce"] = piece != 0;
  config["map_reduce_seg_len"] = piece == 0 ? Json(512) : piece;
  config["add_global_avg"] = false;
  config["lora_compressor"] = false;
  config["lm_type"] = "llama";
  config["training_freezing_mode"] = "compress+llm";
  config["attn_implementation"] = "sdpa";
  config["dtype"] = "float32";
  config["backbone_config_dict"] = llama.to_json();
  return config;
}

/// The files a Hugging Face tokenizer consists of; those that are there are copied.
void copy_tokenizer(const std::string& from, const std::string& to) {
  for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                           "added_tokens.json", "chat_template.jinja"}) {
    const fs::path source = fs::path(from) / name;
    if (fs::exists(source)) write_file_atomic((fs::path(to) / name).string(), read_file(source.string()));
  }
}

}  // namespace

void save_peer_checkpoint(const std::string& folder, const Backbone& backbone, const Compressor& compressor,
                          const Yaml& section, int64_t context_length, const std::string& tokenizer_folder) {
  const Yaml* name = section.find("name");
  CTXC_CHECK(name && name->scalar() == "comprexit", ErrorKind::kUsage, "only comprexit has a form there",
             "export to the ComprExIT repository: another method (found '{}', expected 'comprexit')",
             name ? name->scalar() : "");
  const Yaml resolved = Yaml::parse(compressor.config_yaml(), section.where());
  const OrderedJson config = peer_config(resolved, backbone.config(), context_length);
  TensorMap tensors = parameters_of(compressor);
  for (const auto& [tensor_name, tensor] : backbone.weights())
    tensors.emplace("lm." + tensor_name, tensor.detach());
  make_directories(folder);
  save_sharded(folder, tensors);
  if (!tokenizer_folder.empty()) copy_tokenizer(tokenizer_folder, folder);
  // Last: a folder without it is no checkpoint.
  write_file_atomic(folder + "/config.json", config.dump(2) + "\n");
}

}  // namespace ctxc
