#include "model/memory_artifact.h"

#include <fmt/chrono.h>

#include <chrono>

#include "core/cli.h"
#include "core/error.h"
#include "core/text.h"
#include "model/weights.h"

namespace ctxc {
namespace {

constexpr int64_t kFormatVersion = 1;

/// The `model` record of a backbone.
OrderedJson model_record(const Backbone& backbone) {
  const LlamaConfig& config = backbone.config();
  const OrderedJson full = config.to_json();
  OrderedJson record;
  record["name_or_path"] = backbone.path();
  record["architecture"] = "LlamaForCausalLM";
  record["num_hidden_layers"] = config.num_layers;
  record["num_key_value_heads"] = config.num_kv_heads;
  record["head_dim"] = config.head_dim;
  record["hidden_size"] = config.hidden_size;
  record["vocab_size"] = config.vocab_size;
  record["rope_theta"] = config.rope_theta;
  record["rope_scaling"] = full.contains("rope_scaling") ? full["rope_scaling"] : OrderedJson(nullptr);
  record["weights_fingerprint"] = backbone.path().empty() ? "" : weights_fingerprint(backbone.path());
  record["dtype"] = std::string(name_of(dtype_of(backbone.weights().begin()->second.scalar_type())));
  return record;
}

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                     std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now()));
}

/// Header rows in front of the slots: their embeddings.
Tensor header_embeddings(const Memory& memory, int64_t row, const Backbone& backbone) {
  return backbone.embed(memory.head_ids_BP[row].to(backbone.device()));
}

/// The tensor of this name, with `dims` dimensions and a floating type.
Tensor tensor_of(const std::map<std::string, Tensor>& tensors, const std::string& name, int64_t dims,
                 const std::string& path) {
  const auto it = tensors.find(name);
  CTXC_CHECK(it != tensors.end(), ErrorKind::kInput, "the file is not a memory artifact of this kind",
             "{}: tensor '{}' is missing", path, name);
  CTXC_CHECK(it->second.dim() == dims && it->second.is_floating_point(), ErrorKind::kInput, "",
             "{}: tensor '{}' is not what its kind asks for (found {} dimensions of {}, expected {} of a "
             "floating type)",
             path, name, it->second.dim(), name_of(dtype_of(it->second.scalar_type())), dims);
  return it->second;
}

void check_rows(const MemoryArtifact& memory, const std::string& path) {
  const Json info = memory.info;
  const int64_t rows = memory.kind == "kv" ? memory.k_LGNE.size(2) : memory.embeds_ND.size(0);
  const int64_t said = json_at<int64_t>(info, "n_header", path) + json_at<int64_t>(info, "n_slots", path);
  CTXC_CHECK(rows == said, ErrorKind::kInput, "the file is damaged",
             "{}: rows do not match the record (found {}, expected n_header + n_slots = {})", path, rows,
             said);
  CTXC_CHECK(memory.kind == "embeds" || memory.k_LGNE.sizes() == memory.v_LGNE.sizes(), ErrorKind::kInput,
             "the file is damaged", "{}: k and v have different shapes", path);
}

}  // namespace

MemoryArtifact load_memory(const std::string& path) {
  const SafetensorsFile file(path);
  const auto record = file.metadata().find("ctxc");
  CTXC_CHECK(record != file.metadata().end(), ErrorKind::kInput, "ctxc-run compress writes memory artifacts",
             "{}: not a memory artifact (its metadata has no key 'ctxc')", path);
  MemoryArtifact memory;
  const Json info = parse_json(record->second, path + ": metadata 'ctxc'");
  const int64_t version = json_at<int64_t>(info, "format_version", path);
  CTXC_CHECK(version == kFormatVersion, ErrorKind::kInput, "use the version of ctxc that wrote it",
             "{}: unknown artifact format (found {}, expected {})", path, version, kFormatVersion);
  memory.info = OrderedJson::parse(record->second);
  memory.kind = json_at<std::string>(info, "kind", path);
  const auto tensors = load_tensors(path);
  if (memory.kind == "kv") {
    memory.k_LGNE = tensor_of(tensors, "k", 4, path);
    memory.v_LGNE = tensor_of(tensors, "v", 4, path);
  } else {
    CTXC_CHECK(memory.kind == "embeds", ErrorKind::kInput, "",
               "{}: unknown kind of memory (found '{}', expected embeds or kv)", path, memory.kind);
    memory.embeds_ND = tensor_of(tensors, "embeds", 2, path);
  }
  check_rows(memory, path);
  return memory;
}

void save_memory(const std::string& path, const MemoryArtifact& memory) {
  std::vector<std::pair<std::string, Tensor>> tensors;
  const auto add = [&](const char* name, const Tensor& tensor) {
    tensors.emplace_back(name, tensor.detach().to(at::kCPU).contiguous());
  };
  if (memory.kind == "kv") {
    add("k", memory.k_LGNE);
    add("v", memory.v_LGNE);
  } else {
    add("embeds", memory.embeds_ND);
  }
  save_tensors(path, tensors, {{"ctxc", memory.info.dump()}, {"format", "pt"}});
}

void check_memory_fits(const MemoryArtifact& memory, const Backbone& backbone, const Tokenizer& tokenizer,
                       bool force) {
  const Json info = memory.info;
  const Json said = json_at<Json>(info, "model", "memory artifact"), here = model_record(backbone);
  std::vector<std::string> problems;
  for (const char* key : {"architecture", "num_hidden_layers", "num_key_value_heads", "head_dim",
                          "hidden_size", "vocab_size", "rope_theta", "rope_scaling", "weights_fingerprint"}) {
    if (force && std::string(key) == "weights_fingerprint") continue;
    const Json found = said.contains(key) ? said[key] : Json(nullptr);
    if (found != here[key])
      problems.push_back(fmt::format("{} (found {}, expected {})", key, found.dump(), here[key].dump()));
  }
  const std::string tokens = json_or<std::string>(info, "tokenizer_sha256", "", "memory artifact");
  if (tokens != tokenizer.fingerprint())
    problems.push_back(
        fmt::format("tokenizer_sha256 (found {}, expected {})", tokens, tokenizer.fingerprint()));
  CTXC_CHECK(problems.empty(), ErrorKind::kInput, "use the model and tokenizer the memory was made for",
             "the memory artifact does not fit this model: {}", join(problems, "; "));
}

MemoryArtifact make_memory_artifact(const Memory& memory, int64_t row, const Backbone& backbone,
                                    const Tokenizer& tokenizer, const std::string& method) {
  const Tensor valid_K = memory.mask_BK[row].nonzero().flatten();
  MemoryArtifact artifact;
  artifact.kind = memory.kv.empty() ? "embeds" : "kv";
  const int64_t header = artifact.kind == "kv" ? 0 : memory.head_ids_BP.size(1);
  if (artifact.kind == "embeds") {
    artifact.embeds_ND = at::cat({header_embeddings(memory, row, backbone).to(memory.slots_BKD.scalar_type()),
                                  memory.slots_BKD[row].index_select(0, valid_K)})
                             .detach();
  } else {
    std::vector<Tensor> keys, values;
    for (const KvPair& pair : memory.kv) {
      keys.push_back(pair.key_BGKE[row].index_select(1, valid_K));
      values.push_back(pair.value_BGKE[row].index_select(1, valid_K));
    }
    artifact.k_LGNE = at::stack(keys).detach();
    artifact.v_LGNE = at::stack(values).detach();
  }
  OrderedJson& info = artifact.info;
  info["format_version"] = kFormatVersion;
  info["kind"] = artifact.kind;
  info["method"] = method;
  info["n_slots"] = valid_K.size(0);
  info["n_header"] = header;
  info["header_token_ids"] = OrderedJson::array();
  for (int64_t i = 0; i < header; ++i)
    info["header_token_ids"].push_back(memory.head_ids_BP[row][i].item<int64_t>());
  info["positions"] = {{"first", 0}, {"count", header + valid_K.size(0)}, {"rotated", true}};
  info["model"] = model_record(backbone);
  info["tokenizer_sha256"] = tokenizer.fingerprint();
  info["resume_text"] = "";
  info["created"] = utc_now();
  info["tool"] = std::string(trim(version_text(false)));
  return artifact;
}

Memory memory_of(const MemoryArtifact& artifact, const Backbone& backbone) {
  Memory memory;
  const auto device = backbone.device();
  const auto dtype = backbone.compute_dtype();
  const bool kv = artifact.kind == "kv";
  const int64_t rows = kv ? artifact.k_LGNE.size(2) : artifact.embeds_ND.size(0);
  if (kv) {
    for (int64_t layer = 0; layer < artifact.k_LGNE.size(0); ++layer)
      memory.kv.push_back({artifact.k_LGNE[layer].unsqueeze(0).to(device, dtype),
                           artifact.v_LGNE[layer].unsqueeze(0).to(device, dtype)});
  } else {
    memory.slots_BKD = artifact.embeds_ND.unsqueeze(0).to(device, dtype);
  }
  memory.head_ids_BP = at::empty({1, 0}, at::TensorOptions().dtype(at::kLong).device(device));
  memory.mask_BK = at::ones({1, rows}, at::TensorOptions().dtype(at::kBool).device(device));
  number_densely(memory, 0);
  return memory;
}

}  // namespace ctxc
