#include "model/memory_artifact.h"

#include <fmt/chrono.h>

#include <chrono>

#include "core/cli.h"
#include "core/error.h"
#include "core/log.h"
#include "core/text.h"
#include "model/layers.h"
#include "model/memory_record.h"
#include "model/weights.h"

namespace ctxc {
namespace {

constexpr int64_t kFormatVersion = 1;

std::string utc_now() {
  return fmt::format("{:%Y-%m-%dT%H:%M:%SZ}",
                     std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now()));
}

/// Header rows in front of the slots: their embeddings.
Tensor header_embeddings(const Memory& memory, int64_t row, const Backbone& backbone) {
  return backbone.embed(memory.head_ids_BP[row].to(backbone.device()));
}

/// By how much slots `valid_K` of a row stand elsewhere than without gaps behind the head, int64; undefined
/// where they do not.
Tensor gap_closing_shift(const Memory& memory, int64_t row, const Tensor& valid_K) {
  const int64_t head = memory.head_ids_BP.size(1), slots = valid_K.size(0);
  const Tensor position_K = memory.position_BK[row].index_select(0, valid_K);
  const Tensor shift_K = at::arange(head, head + slots, position_K.options()) - position_K;
  const bool dense =
      shift_K.eq(0).all().item<bool>() && memory.next_position_B[row].item<int64_t>() == head + slots;
  return dense ? Tensor() : shift_K;
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

/// The tensors have the layers, heads and widths of the recorded base. Keys the record lacks are found
/// missing when the memory meets its base.
void check_extents(const MemoryArtifact& memory, const Json& info, const std::string& path) {
  const Json model = json_or<Json>(info, "model", Json::object(), path);
  std::vector<std::string> problems;
  const auto compare = [&](const char* key, int64_t found) {
    const int64_t expected = json_or<int64_t>(model, key, found, path);
    if (found != expected)
      problems.push_back(fmt::format("{} (found {}, expected {})", key, found, expected));
  };
  if (memory.kind == "kv") {
    compare("num_hidden_layers", memory.k_LGNE.size(0));
    compare("num_key_value_heads", memory.k_LGNE.size(1));
    compare("head_dim", memory.k_LGNE.size(3));
  } else {
    compare("hidden_size", memory.embeds_ND.size(1));
  }
  CTXC_CHECK(problems.empty(), ErrorKind::kInput, "the file is damaged, or holds the tensors of another base",
             "{}: tensors do not have the shape of the recorded base: {}", path, join(problems, "; "));
}

void check_rows(const MemoryArtifact& memory, const std::string& path) {
  const Json info = memory.info;
  const int64_t rows = memory.rows();
  const int64_t said = json_at<int64_t>(info, "n_header", path) + json_at<int64_t>(info, "n_slots", path);
  CTXC_CHECK(rows == said, ErrorKind::kInput, "the file is damaged",
             "{}: rows do not match the record (found {}, expected n_header + n_slots = {})", path, rows,
             said);
  CTXC_CHECK(memory.kind == "embeds" || memory.k_LGNE.sizes() == memory.v_LGNE.sizes(), ErrorKind::kInput,
             "the file is damaged", "{}: k and v have different shapes", path);
  check_extents(memory, info, path);
  if (!info.contains("positions")) return;
  const Json positions = json_at<Json>(info, "positions", path);
  const int64_t first = json_at<int64_t>(positions, "first", path),
                count = json_at<int64_t>(positions, "count", path);
  const bool rotated = json_at<bool>(positions, "rotated", path);
  CTXC_CHECK(first == 0 && count == rows && rotated, ErrorKind::kInput,
             "make the memory again: its keys would be read at other places than they were turned to",
             "{}: positions do not fit (found first {}, count {}, rotated {}, expected first 0, count {}, "
             "rotated true)",
             path, first, count, rotated, rows);
}

/// k or v of an int8 file: values times scale. `one` = the dimension the scale has one entry of.
Tensor widened(const std::map<std::string, Tensor>& tensors, const std::string& name, int64_t one,
               Tensor& rows, Tensor& scale, const std::string& path) {
  rows = tensors.at(name);
  scale = tensor_of(tensors, name + "_scale", 4, path);
  std::vector<int64_t> expected = rows.sizes().vec();
  CTXC_CHECK(rows.dim() == 4, ErrorKind::kInput, "", "{}: tensor '{}' has {} dimensions (expected 4)", path,
             name, rows.dim());
  expected[static_cast<size_t>(one)] = 1;
  CTXC_CHECK(scale.sizes() == at::IntArrayRef(expected), ErrorKind::kInput, "the file is damaged",
             "{}: tensor '{}_scale' does not fit '{}'", path, name, name);
  return rows.to(at::kFloat) * scale.to(at::kFloat);
}

void load_kv(const std::map<std::string, Tensor>& tensors, const std::string& path, MemoryArtifact& memory) {
  const auto k = tensors.find("k"), v = tensors.find("v");
  const bool int8 = k != tensors.end() && v != tensors.end() && k->second.scalar_type() == at::kChar &&
                    v->second.scalar_type() == at::kChar;
  if (!int8) {
    memory.k_LGNE = tensor_of(tensors, "k", 4, path);
    memory.v_LGNE = tensor_of(tensors, "v", 4, path);
    return;
  }
  Int8Rows stored;
  memory.k_LGNE = widened(tensors, "k", 2, stored.k_LGNE, stored.k_scale_LG1E, path);
  memory.v_LGNE = widened(tensors, "v", 3, stored.v_LGNE, stored.v_scale_LGN1, path);
  memory.int8 = std::move(stored);
}

/// What every record begins with.
OrderedJson new_record(const MemoryArtifact& artifact, const std::vector<int64_t>& header,
                       const Backbone& backbone, const Tokenizer& tokenizer, const std::string& method) {
  const int64_t rows = artifact.rows(), head = static_cast<int64_t>(header.size());
  OrderedJson info;
  info["format_version"] = kFormatVersion;
  info["kind"] = artifact.kind;
  info["method"] = method;
  info["n_slots"] = rows - head;
  info["n_header"] = head;
  info["header_token_ids"] = header;
  info["positions"] = {{"first", 0}, {"count", rows}, {"rotated", true}};
  info["model"] = model_record(backbone);
  info["tokenizer_sha256"] = tokenizer.fingerprint();
  info["resume_text"] = "";
  info["created"] = utc_now();
  info["tool"] = std::string(trim(version_text(false)));
  return info;
}

}  // namespace

int64_t MemoryArtifact::rows() const {
  return kind == "kv" ? k_LGNE.size(2) : embeds_ND.size(0);
}

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
    load_kv(tensors, path, memory);
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
  if (memory.int8) {
    add("k", memory.int8->k_LGNE);
    add("v", memory.int8->v_LGNE);
    add("k_scale", memory.int8->k_scale_LG1E);
    add("v_scale", memory.int8->v_scale_LGN1);
  } else if (memory.kind == "kv") {
    add("k", memory.k_LGNE);
    add("v", memory.v_LGNE);
  } else {
    add("embeds", memory.embeds_ND);
  }
  save_tensors(path, tensors, {{"ctxc", memory.info.dump()}, {"format", "pt"}});
}

MemoryArtifact make_memory_artifact(const Memory& memory, int64_t row, const Backbone& backbone,
                                    const Tokenizer& tokenizer, const std::string& method) {
  const Tensor valid_K = memory.mask_BK[row].nonzero().flatten();
  const Tensor shift_K = gap_closing_shift(memory, row, valid_K);
  if (shift_K.defined())
    log_warning(
        method +
        ": an artifact holds its slots without gaps, as engines read them; these were trained at other "
        "positions, so answers differ from those of ctxc-eval");
  MemoryArtifact artifact;
  artifact.kind = memory.kv.empty() ? "embeds" : "kv";
  std::vector<int64_t> header;
  for (int64_t i = 0; i < memory.head_ids_BP.size(1); ++i)
    header.push_back(memory.head_ids_BP[row][i].item<int64_t>());
  if (artifact.kind == "embeds") {
    artifact.embeds_ND = at::cat({header_embeddings(memory, row, backbone).to(memory.slots_BKD.scalar_type()),
                                  memory.slots_BKD[row].index_select(0, valid_K)})
                             .detach();
  } else {
    // The head is read before the slots and sees none of them.
    const Tokens tokens(header.begin(), header.end());
    const std::vector<KvPair> head = tokens.empty() ? std::vector<KvPair>() : read_kv(backbone, tokens);
    std::vector<Tensor> keys, values;
    for (size_t layer = 0; layer < memory.kv.size(); ++layer) {
      Tensor key = memory.kv[layer].key_BGKE[row].index_select(1, valid_K),
             value = memory.kv[layer].value_BGKE[row].index_select(1, valid_K);
      if (shift_K.defined()) key = shift_keys(key, shift_K, backbone.inverse_frequencies());
      if (!head.empty()) {
        key = at::cat({head[layer].key_BGKE[0].to(key.scalar_type()), key}, 1);
        value = at::cat({head[layer].value_BGKE[0].to(value.scalar_type()), value}, 1);
      }
      keys.push_back(key);
      values.push_back(value);
    }
    artifact.k_LGNE = at::stack(keys).detach();
    artifact.v_LGNE = at::stack(values).detach();
  }
  artifact.info = new_record(artifact, header, backbone, tokenizer, method);
  return artifact;
}

MemoryArtifact make_kv_artifact(const std::vector<KvPair>& kv, const Tokens& header, const Backbone& backbone,
                                const Tokenizer& tokenizer, const std::string& method) {
  MemoryArtifact artifact;
  artifact.kind = "kv";
  std::vector<Tensor> keys, values;
  for (const KvPair& pair : kv) {
    keys.push_back(pair.key_BGKE[0]);
    values.push_back(pair.value_BGKE[0]);
  }
  artifact.k_LGNE = at::stack(keys).detach();
  artifact.v_LGNE = at::stack(values).detach();
  artifact.info = new_record(artifact, {header.begin(), header.end()}, backbone, tokenizer, method);
  return artifact;
}

Memory memory_of(const MemoryArtifact& artifact, const Backbone& backbone) {
  Memory memory;
  const auto device = backbone.device();
  const auto dtype = backbone.compute_dtype();
  const bool kv = artifact.kind == "kv";
  const int64_t rows = artifact.rows();
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
