#include "eval/file_summary.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/gguf.h"
#include "core/safetensors.h"
#include "data/tokenizer.h"
#include "model/artifact.h"
#include "model/lora_artifact.h"
#include "model/weights.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

struct TensorTotals {
  OrderedJson list = OrderedJson::array();
  int64_t parameters = 0;
  uint64_t bytes = 0;
  void add(const std::string& name, std::string_view dtype, const std::vector<int64_t>& shape, int64_t count,
           uint64_t size) {
    list.push_back({{"name", name}, {"dtype", std::string(dtype)}, {"shape", shape}});
    parameters += count;
    bytes += size;
  }
  void put_into(OrderedJson& summary) const {
    summary["parameters"] = parameters;
    summary["bytes"] = bytes;
    summary["tensors"] = list;
  }
};

TensorTotals totals_of(const std::map<std::string, TensorView>& tensors) {
  TensorTotals totals;
  for (const auto& [name, view] : tensors)
    totals.add(name, name_of(view.dtype), view.shape, view.numel(), view.bytes.size());
  return totals;
}

/// Facts on the tokenizer beside a model, if there is one.
OrderedJson tokenizer_record(const std::string& path) {
  const Tokenizer tokenizer = Tokenizer::load(path);
  OrderedJson record = {{"vocabulary", tokenizer.vocab_size()}, {"sha256", tokenizer.fingerprint()}};
  const auto role = [&](const char* name, std::optional<TokenId> id) {
    if (id) record[name] = tokenizer.piece(*id);
  };
  role("bos", tokenizer.bos());
  role("eos", tokenizer.eos());
  role("pad", tokenizer.pad());
  record["chat_template"] = !tokenizer.chat_template().empty();
  return record;
}

OrderedJson summarize_model_folder(const std::string& path) {
  OrderedJson summary = {{"path", path}, {"kind", "Hugging Face model"}};
  summary["config"] = LlamaConfig::load(path).to_json();
  if (fs::exists(fs::path(path) / "tokenizer.json")) summary["tokenizer"] = tokenizer_record(path);
  summary["weights_fingerprint"] = weights_fingerprint(path);
  totals_of(SafetensorsSet(path).tensors()).put_into(summary);
  return summary;
}

OrderedJson summarize_gguf(const std::string& path) {
  OrderedJson summary = {{"path", path}, {"kind", "GGUF model"}};
  const GgufFile file(path);
  summary["config"] = LlamaConfig::from_gguf(file).to_json();
  if (file.contains("tokenizer.ggml.tokens")) summary["tokenizer"] = tokenizer_record(path);
  summary["weights_fingerprint"] = weights_fingerprint(path);
  TensorTotals totals;
  for (const auto& [name, tensor] : file.tensors())
    totals.add(name, name_of(tensor.type), tensor.shape, tensor.numel(), tensor.bytes.size());
  totals.put_into(summary);
  return summary;
}

/// Facts on adapters that a compile kept.
OrderedJson adapter_record(const LoraArtifact& lora, const std::string& path) {
  int64_t parameters = 0;
  for (const auto& [name, tensor] : lora.tensors) parameters += tensor.numel();
  const Json model = json_at<Json>(Json(lora.info), "model", path);
  return {{"base", json_or<std::string>(model, "name_or_path", "", path)},
          {"rank", lora.config.rank},
          {"alpha", lora.config.alpha},
          {"targets", lora.config.targets},
          {"parameters", parameters},
          {"buffers", lora.buffers_KD.defined() ? lora.buffers_KD.size(0) : 0}};
}

OrderedJson summarize_safetensors(const std::string& path) {
  const SafetensorsFile file(path);
  OrderedJson summary = {{"path", path}, {"kind", "safetensors"}};
  const auto record = file.metadata().find("ctxc");
  if (record != file.metadata().end()) {
    const Json info = parse_json(record->second, path + ": metadata 'ctxc'");
    if (info.is_object() && info.contains("kind") && info["kind"] == "lora") {
      summary["kind"] = "adapters";
      summary["adapters"] = adapter_record(load_lora(path), path);
    } else if (info.is_object() && info.contains("kind")) {
      load_memory(path);  // checks rows and tensors against the record
      summary["kind"] = "memory artifact";
    } else {
      summary["kind"] = "trained tensors";
    }
    summary["record"] = OrderedJson::parse(record->second);
  } else if (!file.metadata().empty()) {
    summary["metadata"] = file.metadata();
  }
  totals_of(file.tensors()).put_into(summary);
  return summary;
}

OrderedJson summarize_checkpoint(const std::string& path) {
  const std::string origin = (fs::path(path) / "state.json").string();
  OrderedJson summary = {{"path", path}, {"kind", "checkpoint"}};
  OrderedJson state = OrderedJson(read_json_file(origin));
  CTXC_CHECK(state.is_object() && state.contains("step"), ErrorKind::kInput, "",
             "{}: not the state of a checkpoint", origin);
  const Json files = state.contains("files") ? Json(state["files"]) : Json::object();
  for (const auto& [name, hash] : files.items()) {
    const std::string file = contained_join(path, name);
    const bool intact =
        fs::is_regular_file(file) && hash.is_string() && sha256_hex_of_file(file) == hash.get<std::string>();
    summary["files"][name] = intact ? "intact" : "damaged or missing";
  }
  state.erase("files");
  summary["state"] = state;
  const fs::path trained = fs::path(path) / "trainable.safetensors";
  if (fs::is_regular_file(trained)) totals_of(SafetensorsFile(trained.string()).tensors()).put_into(summary);
  return summary;
}

OrderedJson evaluation_metrics(const std::string& results) {
  const Json json = read_json_file(results);
  OrderedJson metrics;
  if (json.is_object() && json.contains("macro")) metrics["macro"] = json["macro"];
  if (json.is_object() && json.contains("sets")) metrics["sets"] = json["sets"];
  return metrics;
}

OrderedJson summarize_run(const std::string& path) {
  OrderedJson summary = {{"path", path}, {"kind", "run folder"}};
  const fs::path base(path);
  int64_t lines = 0;
  OrderedJson last, last_valid;
  if (fs::is_regular_file(base / "log.jsonl")) {
    const std::string log = (base / "log.jsonl").string();
    for_each_line(log, [&](std::string_view line, int64_t number) {
      const Json row = parse_json(line, log, number);
      ++lines;
      (row.contains("valid_loss") ? last_valid : last) = OrderedJson(row);
    });
  }
  OrderedJson checkpoints = OrderedJson::array();
  std::error_code ignored;
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(base / "checkpoints", ignored))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  for (const std::string& name : names)
    if (name.starts_with("step-")) checkpoints.push_back(name);
  summary["log_lines"] = lines;
  summary["metrics"] = {{"last_step", last}, {"last_validation", last_valid}};
  if (fs::is_regular_file(base / "eval" / "results.json"))
    summary["metrics"]["evaluation"] = evaluation_metrics((base / "eval" / "results.json").string());
  summary["checkpoints"] = checkpoints;
  if (!checkpoints.empty()) summary["newest"] = summarize_checkpoint(resolve_checkpoint(path));
  return summary;
}

OrderedJson summarize_peer(const std::string& path) {
  OrderedJson summary = {{"path", path}, {"kind", "ComprExIT checkpoint"}};
  summary["config"] = OrderedJson(read_json_file((fs::path(path) / "config.json").string()));
  if (fs::exists(fs::path(path) / "tokenizer.json")) summary["tokenizer"] = tokenizer_record(path);
  totals_of(SafetensorsSet(path).tensors()).put_into(summary);
  return summary;
}

}  // namespace

OrderedJson summarize_file(const std::string& path) {
  const fs::path base(path);
  CTXC_CHECK(fs::exists(base), ErrorKind::kInput, "", "{}: no such file or folder", path);
  if (fs::is_directory(base)) {
    if (is_peer_checkpoint(path)) return summarize_peer(path);
    if (fs::exists(base / "state.json")) return summarize_checkpoint(path);
    if (fs::exists(base / "checkpoints") || fs::exists(base / "log.jsonl")) return summarize_run(path);
    if (fs::exists(base / "config.json")) return summarize_model_folder(path);
    if (fs::exists(base / "results.json"))
      return {{"path", path},
              {"kind", "evaluation"},
              {"metrics", evaluation_metrics((base / "results.json").string())}};
  } else {
    if (is_gguf(path)) return summarize_gguf(path);
    if (base.extension() == ".safetensors") return summarize_safetensors(path);
    if (base.filename() == "config.json")
      return {{"path", path}, {"kind", "model configuration"}, {"config", LlamaConfig::load(path).to_json()}};
    if (base.filename() == "tokenizer.json") {
      OrderedJson summary = {{"path", path}, {"kind", "tokenizer"}};
      summary["tokenizer"] = tokenizer_record(path);
      return summary;
    }
  }
  throw Error(
      ErrorKind::kInput, fmt::format("{}: nothing that ctxc knows", path),
      "expected a model folder, GGUF, safetensors, checkpoint, run folder, evaluation or memory artifact");
}

}  // namespace ctxc
