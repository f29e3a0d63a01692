#include "model/artifact.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "model/parameters.h"
#include "model/weights.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;
constexpr int64_t kCheckpointFormat = 1;
constexpr const char* kTrainable = "trainable.safetensors";

/// state.json of a checkpoint folder whose tensors match their hash.
Json verified_state(const std::string& folder) {
  const std::string origin = (fs::path(folder) / "state.json").string();
  Json state = read_json_file(origin);
  const int64_t version = json_at<int64_t>(state, "format_version", origin);
  CTXC_CHECK(version == kCheckpointFormat, ErrorKind::kInput, "use the version of ctxc that wrote it",
             "{}: unknown checkpoint format (found {}, expected {})", origin, version, kCheckpointFormat);
  const std::string expected =
      json_at<std::string>(json_at<Json>(state, "files", origin), kTrainable, origin);
  const std::string file = (fs::path(folder) / kTrainable).string(), found = sha256_hex_of_file(file);
  CTXC_CHECK(found == expected, ErrorKind::kInput, "the file is damaged: use another checkpoint",
             "{}: SHA-256 differs from state.json (found {}, expected {})", file, found, expected);
  return state;
}

std::string text_at(const Yaml& config, const std::string& section, const std::string& key) {
  const Yaml* outer = config.find(section);
  const Yaml* inner = outer && outer->kind() == Yaml::Kind::kMap ? outer->find(key) : nullptr;
  return inner && inner->kind() == Yaml::Kind::kScalar ? inner->scalar() : "";
}

Yaml with_overrides(Yaml config, const std::vector<std::string>& overrides) {
  for (const std::string& text : overrides) {
    const auto [key, value] = parse_override(text);
    config = config.with(key, value);
  }
  return config;
}

/// The backbone of a run: the base it names, with the tensors the run trained put over it.
std::shared_ptr<Backbone> backbone_of(const Yaml& config, const Json& state, const TensorMap& trained,
                                      const std::string& model, const std::string& origin,
                                      const BackboneOptions& options) {
  const std::string path = model.empty() ? text_at(config, "backbone", "path") : model;
  if (trained.empty()) {
    CTXC_CHECK(!path.empty(), ErrorKind::kInput, "name the base with --model",
               "{}: the checkpoint names no base", origin);
    return Backbone::load(path, options);
  }
  const LlamaConfig llama = state.contains("backbone")
                                ? LlamaConfig::from_json(state["backbone"], origin + ": backbone")
                                : LlamaConfig::load(path);
  return Backbone::from_weights(llama, trained, options, "");
}

LoadedMethod load_peer(const std::string& checkpoint, const std::string& model,
                       const std::vector<std::string>& overrides, const BackboneOptions& options) {
  PeerMethod peer = load_peer_method(checkpoint, model, overrides, options);
  LoadedMethod method;
  method.backbone = peer.backbone;
  method.compressor = peer.compressor;
  method.section = peer.section;
  method.path = checkpoint;
  method.tokenizer_path = fs::exists(fs::path(checkpoint) / "tokenizer.json") ? checkpoint : model;
  CTXC_CHECK(!method.tokenizer_path.empty(), ErrorKind::kInput, "name the base with --model",
             "{}: the checkpoint has no tokenizer.json", checkpoint);
  method.tokenizer = Tokenizer::load(method.tokenizer_path);
  method.prompt.context_bos = true;
  method.prompt.split_question = true;
  method.prompt.answer_extractor = "first_sentence_dot";
  method.padded_length = peer.context_length;
  method.state["context_length"] = peer.context_length;
  return method;
}

LoadedMethod load_ours(const std::string& checkpoint, const std::string& model,
                       const std::vector<std::string>& overrides, const BackboneOptions& options) {
  LoadedMethod method;
  method.path = resolve_checkpoint(checkpoint);
  const std::string origin = method.path + "/state.json";
  const Json state = verified_state(method.path);
  method.state = state;
  method.config = with_overrides(
      Yaml::parse(json_at<std::string>(state, "config", origin), origin + ": config"), overrides);
  const Yaml* section = method.config.find("compressor");
  CTXC_CHECK(section, ErrorKind::kInput, "", "{}: the configuration has no section 'compressor'", origin);
  method.section = *section;
  if (const Yaml* prompt = method.config.find("prompt")) read_config(*prompt, method.prompt, "prompt");

  const TensorMap tensors = load_tensors(method.path + "/" + kTrainable);
  BackboneOptions as_trained = options;
  if (options.dtype == "auto") as_trained.dtype = text_at(method.config, "run", "dtype");
  if (as_trained.dtype.empty()) as_trained.dtype = "auto";
  method.backbone = backbone_of(method.config, state, below(tensors, "backbone."), model, origin, as_trained);
  const std::string named = text_at(method.config, "backbone", "tokenizer");
  const std::string base = model.empty() ? text_at(method.config, "backbone", "path") : model;
  method.tokenizer_path = named.empty() || !model.empty() ? base : named;
  method.tokenizer = Tokenizer::load(method.tokenizer_path);

  CompressorSetup setup{.backbone = method.backbone->config(), .head_ids = {}, .seed = 0};
  for (const TokenId id : Prompt(method.prompt, method.tokenizer).head_ids()) setup.head_ids.push_back(id);
  method.compressor = make_compressor(method.section, setup);
  load_parameters(*method.compressor, below(tensors, "compressor."), method.path + "/" + kTrainable);
  if (text_at(method.config, "compressor", "grid") == "padded") {
    const std::string columns = text_at(method.config, "data", "context_tokens");
    if (!columns.empty()) method.padded_length = std::stoll(columns);
  }
  return method;
}

}  // namespace

std::string resolve_checkpoint(const std::string& path) {
  if (fs::exists(fs::path(path) / "state.json")) return path;
  std::vector<std::string> folders;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(fs::path(path) / "checkpoints", ignored))
    if (entry.path().filename().string().starts_with("step-")) folders.push_back(entry.path().string());
  CTXC_CHECK(!folders.empty(), ErrorKind::kInput,
             "name a run folder, one of its checkpoints/step-… folders, or a ComprExIT checkpoint",
             "{}: holds no checkpoint", path);
  std::sort(folders.rbegin(), folders.rend());  // names are zero-padded: newest first
  std::string damage;
  for (const std::string& folder : folders) {
    try {
      verified_state(folder);
      if (!damage.empty()) log_warning(fmt::format("{}; using {}", damage, folder));
      return folder;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kInput) throw;
      damage += fmt::format("{}{} is damaged ({})", damage.empty() ? "" : "; ", folder, error.what());
    }
  }
  throw Error(ErrorKind::kInput, damage, "no checkpoint of this run is whole");
}

LoadedMethod load_method(const std::string& checkpoint, const std::string& model,
                         const std::vector<std::string>& overrides, const BackboneOptions& options) {
  LoadedMethod method = is_peer_checkpoint(checkpoint) ? load_peer(checkpoint, model, overrides, options)
                                                       : load_ours(checkpoint, model, overrides, options);
  method.compressor->to(method.backbone->device());
  method.compressor->eval();
  return method;
}

}  // namespace ctxc
