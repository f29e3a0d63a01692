// hf: a backbone as a Hugging Face folder: config.json, generation_config.json, weights (sharded above the
// limit) and the tokenizer's files. The input is a run that trained its backbone, or any model ctxc reads
// (GGUF becomes a folder).
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "eval/exporter.h"
#include "eval/memory_export.h"
#include "model/artifact.h"
#include "model/parameters.h"
#include "model/weights.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

/// The backbone to write and where its tokenizer lies.
struct Source {
  std::shared_ptr<Backbone> backbone;
  std::string tokenizer_path;
};

Source open_model(const ExportRequest& request) {
  const fs::path in(request.in);
  const bool is_model =
      fs::is_regular_file(in) || (fs::exists(in / "config.json") && !is_peer_checkpoint(request.in));
  if (is_model) return {Backbone::load(request.in), request.in};
  const LoadedMethod method = load_method(request.in, request.model);
  return {method.backbone, method.tokenizer_path};
}

/// Tokenizer files of a Hugging Face folder, or a tokenizer.json alone.
void copy_tokenizer(const std::string& from, const std::string& to) {
  const fs::path source(from), folder = fs::is_directory(source) ? source : source.parent_path();
  const bool has_files = fs::is_directory(source) || source.filename() == "tokenizer.json";
  int copied = 0;
  if (has_files) {
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
                             "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja"}) {
      if (!fs::is_regular_file(folder / name)) continue;
      write_file_atomic((fs::path(to) / name).string(), read_file((folder / name).string()));
      ++copied;
    }
  }
  if (copied == 0)
    log_warning(fmt::format(
        "{}: has no tokenizer files to copy (a GGUF keeps its tokenizer inside); the folder is written "
        "without them",
        from));
}

void write_hf(const ExportRequest& request) {
  const Source source = open_model(request);
  const std::string dtype = request.dtype.empty() ? "bfloat16" : request.dtype;
  const at::ScalarType type = float_type(dtype);
  TensorMap weights;
  for (const auto& [name, tensor] : source.backbone->weights())
    weights[name] = tensor.detach().to(at::kCPU, type).contiguous();

  OrderedJson config = source.backbone->config().to_json();
  config["torch_dtype"] = dtype;
  write_file_atomic((fs::path(request.out) / "config.json").string(), config.dump(2) + "\n");
  OrderedJson generation = {{"_from_model_config", true}};
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"})
    if (config.contains(key) && !config[key].is_null()) generation[key] = config[key];
  write_file_atomic((fs::path(request.out) / "generation_config.json").string(), generation.dump(2) + "\n");
  save_sharded(request.out, weights, request.shard_bytes);
  copy_tokenizer(source.tokenizer_path, request.out);
}

CTXC_REGISTER_EXPORTER(hf, "hf", true, write_hf,
                       "the backbone of a run (or any model) as a Hugging Face folder");

}  // namespace
}  // namespace ctxc
