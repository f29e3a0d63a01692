#include "model/lora_artifact.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "model/weights.h"

namespace ctxc {
namespace {

/// Rows and columns of a projection of the recorded base, [out, in]; 0 = not in the record (query heads,
/// MLP's width).
std::pair<int64_t, int64_t> shape_of(const Json& model, const std::string& projection,
                                     const std::string& path) {
  const auto number = [&](const char* key) { return json_at<int64_t>(model, key, path); };
  const int64_t width = number("hidden_size");
  if (projection == "k_proj" || projection == "v_proj")
    return {number("num_key_value_heads") * number("head_dim"), width};
  if (projection == "o_proj" || projection == "down_proj") return {width, 0};
  return {0, width};
}

void check_pair(const LoraArtifact& lora, const std::string& stem, const LoraName& name, const Json& model,
                const std::string& path) {
  const auto a = lora.tensors.find(stem + ".lora_A"), b = lora.tensors.find(stem + ".lora_B");
  CTXC_CHECK(a != lora.tensors.end() && b != lora.tensors.end(), ErrorKind::kInput, "the file is damaged",
             "{}: adapter '{}' lacks one of lora_A and lora_B", path, stem);
  const auto [out, in] = shape_of(model, name.projection, path);
  const bool fits = a->second.dim() == 2 && b->second.dim() == 2 && a->second.size(0) == lora.config.rank &&
                    b->second.size(1) == lora.config.rank && (in == 0 || a->second.size(1) == in) &&
                    (out == 0 || b->second.size(0) == out) &&
                    name.layer < json_at<int64_t>(model, "num_hidden_layers", path);
  CTXC_CHECK(fits, ErrorKind::kInput, "the file is damaged",
             "{}: adapter '{}' does not fit the recorded base and rank {}", path, stem, lora.config.rank);
}

}  // namespace

LoraName lora_name(const std::string& name, const std::string& origin) {
  const std::vector<std::string> parts = split(name, '.');
  const std::vector<std::string> projections = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                "gate_proj", "up_proj", "down_proj"};
  const bool good = parts.size() == 4 && parts[0] == "layers" && !parts[1].empty() && parts[1].size() < 6 &&
                    parts[1].find_first_not_of("0123456789") == std::string::npos &&
                    std::find(projections.begin(), projections.end(), parts[2]) != projections.end() &&
                    (parts[3] == "lora_A" || parts[3] == "lora_B");
  CTXC_CHECK(good, ErrorKind::kInput, "", "{}: no adapter is called so (found '{}')", origin, name);
  return {std::stoll(parts[1]), parts[2], parts[3]};
}

void save_lora(const std::string& path, const LoraArtifact& lora) {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& [name, tensor] : lora.tensors)
    tensors.emplace_back(name, tensor.detach().to(at::kCPU, at::kFloat).contiguous());
  if (lora.buffers_KD.defined())
    tensors.emplace_back("buffers", lora.buffers_KD.detach().to(at::kCPU, at::kFloat).contiguous());
  OrderedJson info = lora.info;
  info["kind"] = "lora";
  info["rank"] = lora.config.rank;
  info["alpha"] = lora.config.alpha;
  info["targets"] = lora.config.targets;
  save_tensors(path, tensors, {{"ctxc", info.dump()}, {"format", "pt"}});
}

LoraArtifact load_lora(const std::string& path) {
  const SafetensorsFile file(path);
  const auto record = file.metadata().find("ctxc");
  CTXC_CHECK(record != file.metadata().end(), ErrorKind::kInput,
             "ctxc-run compile --keep-lora writes adapters",
             "{}: holds no adapters (its metadata has no key 'ctxc')", path);
  const Json info = parse_json(record->second, path + ": metadata 'ctxc'");
  const std::string kind = json_or<std::string>(info, "kind", "", path);
  CTXC_CHECK(kind == "lora", ErrorKind::kInput, "ctxc-run compile --keep-lora writes adapters",
             "{}: holds no adapters (found kind '{}', expected 'lora')", path, kind);
  LoraArtifact lora;
  lora.info = OrderedJson::parse(record->second);
  lora.config.rank = json_at<int64_t>(info, "rank", path);
  lora.config.alpha = json_at<double>(info, "alpha", path);
  lora.config.targets = json_at<std::vector<std::string>>(info, "targets", path);
  lora.tensors = load_tensors(path);
  if (auto buffers = lora.tensors.extract("buffers")) lora.buffers_KD = buffers.mapped();
  const Json model = json_at<Json>(info, "model", path);
  CTXC_CHECK(!lora.tensors.empty(), ErrorKind::kInput, "", "{}: holds no adapters", path);
  for (const auto& [name, tensor] : lora.tensors)
    check_pair(lora, name.substr(0, name.size() - 7), lora_name(name, path), model, path);
  return lora;
}

}  // namespace ctxc
