#include "model/memory_edit.h"

#include "core/error.h"
#include "core/text.h"
#include "data/prompt_record.h"
#include "model/memory_record.h"

namespace ctxc {
namespace {

double relative_error(const Tensor& found, const Tensor& exact) {
  const Tensor wide = exact.to(at::kDouble);
  return (found.to(at::kDouble) - wide).norm().item<double>() / std::max(wide.norm().item<double>(), 1e-30);
}

/// Rows of int8 with one scale over `dimension`, and their values.
Tensor quantized(const Tensor& exact, int64_t dimension, Tensor& rows, Tensor& scale) {
  const Tensor wide = exact.to(at::kFloat);
  scale = (wide.abs().amax(dimension, /*keepdim=*/true) / 127).clamp_min(1e-30);
  rows = (wide / scale).round().clamp(-127, 127).to(at::kChar);
  return rows.to(at::kFloat) * scale;
}

MemoryArtifact as_int8(const MemoryArtifact& memory) {
  CTXC_CHECK(memory.kind == "kv", ErrorKind::kUsage, "turn it into kind kv first (ctxc-export --to kv)",
             "int8 storage is for keys and values (found a memory of kind {})", memory.kind);
  MemoryArtifact result = memory;
  Int8Rows stored;
  result.k_LGNE = quantized(memory.k_LGNE, 2, stored.k_LGNE, stored.k_scale_LG1E);
  result.v_LGNE = quantized(memory.v_LGNE, 3, stored.v_LGNE, stored.v_scale_LGN1);
  result.int8 = std::move(stored);
  return result;
}

Tensor rows_of(const MemoryArtifact& memory, int64_t first, int64_t count, bool keys) {
  return (keys ? memory.k_LGNE : memory.v_LGNE).narrow(2, first, count);
}

/// How a memory wants its questions put; defaults filled in, as ctxc-run ask does.
Json prompt_of(const Json& info, const std::string& origin) {
  Json prompt = Json(prompt_record(recorded_prompt(info, origin)));
  prompt["resume_text"] = json_or<std::string>(info, "resume_text", "", origin);
  return prompt;
}

void add_differences(const Json& found, const Json& expected, std::vector<std::string>& problems) {
  for (const auto& [key, value] : expected.items())
    if (found.at(key) != value)
      problems.push_back(fmt::format("{} (found {}, expected {})",
                                     key == "resume_text" ? key : "prompt." + key, found.at(key).dump(),
                                     value.dump()));
}

void check_joinable(const std::vector<MemoryArtifact>& memories, const std::vector<std::string>& names) {
  CTXC_CHECK(!memories.empty(), ErrorKind::kUsage, "", "compose: no memory was given");
  const Json first = memories[0].info;
  std::vector<std::string> problems;
  for (size_t i = 1; i < memories.size(); ++i) {
    const Json info = memories[i].info;
    std::vector<std::string> here = record_differences(json_at<Json>(info, "model", names[i]),
                                                       json_at<Json>(first, "model", names[0]), true);
    for (const char* key : {"kind", "tokenizer_sha256", "header_token_ids"}) {
      const Json a = info.contains(key) ? info[key] : Json(), b = first.contains(key) ? first[key] : Json();
      if (a != b) here.push_back(fmt::format("{} (found {}, expected {})", key, a.dump(), b.dump()));
    }
    add_differences(prompt_of(info, names[i]), prompt_of(first, names[0]), here);
    if (!here.empty()) problems.push_back(fmt::format("{}: {}", names[i], join(here, "; ")));
  }
  CTXC_CHECK(problems.empty(), ErrorKind::kInput, "join memories of one base, kind, header and prompt",
             "memories that do not belong together: differences from {}: {}", names[0], join(problems, "; "));
}

/// Records of the parts, and sums over them.
OrderedJson joined_record(const std::vector<MemoryArtifact>& memories, int64_t rows) {
  OrderedJson info = memories[0].info;
  int64_t tokens = 0;
  bool truncated = false;
  OrderedJson parts = OrderedJson::array();
  for (const MemoryArtifact& memory : memories) {
    const OrderedJson context =
        memory.info.contains("context") ? memory.info["context"] : OrderedJson::object();
    tokens += context.value("n_tokens", int64_t{0});
    truncated = truncated || context.value("truncated", false);
    parts.push_back({{"method", memory.info.value("method", "")},
                     {"n_slots", memory.rows() - memory.header()},
                     {"context", context}});
  }
  info["n_slots"] = rows - memories[0].header();
  info["positions"] = {{"first", 0}, {"count", rows}, {"rotated", true}};
  info["context"] = {{"sha256", nullptr}, {"n_tokens", tokens}, {"truncated", truncated}};
  info["ratio"] =
      static_cast<double>(tokens) / static_cast<double>(std::max<int64_t>(1, rows - memories[0].header()));
  info["parts"] = parts;
  info.erase("metrics");  // measured on the parts, not on what they became
  info.erase("storage");
  return info;
}

}  // namespace

MemoryArtifact stored_as(const MemoryArtifact& memory, const std::string& type) {
  MemoryArtifact result = memory;
  if (type == "int8") {
    result = as_int8(memory);
  } else {
    CTXC_CHECK(type == "float32" || type == "float16" || type == "bfloat16", ErrorKind::kUsage, "",
               "unknown storage type (found '{}', expected float32, float16, bfloat16 or int8)", type);
    const at::ScalarType scalar = type == "float32"   ? at::kFloat
                                  : type == "float16" ? at::kHalf
                                                      : at::kBFloat16;
    result.int8.reset();
    for (Tensor* rows : {&result.k_LGNE, &result.v_LGNE, &result.embeds_ND})
      if (rows->defined()) *rows = rows->to(scalar);
  }
  OrderedJson storage{{"dtype", type}};
  if (memory.kind == "kv") {
    storage["k_relative_error"] = relative_error(result.k_LGNE, memory.k_LGNE);
    storage["v_relative_error"] = relative_error(result.v_LGNE, memory.v_LGNE);
  } else {
    storage["relative_error"] = relative_error(result.embeds_ND, memory.embeds_ND);
  }
  result.info["storage"] = storage;
  return result;
}

MemoryArtifact moved_by(const MemoryArtifact& memory, int64_t offset) {
  if (memory.kind != "kv" || offset == 0) return memory;
  MemoryArtifact result = memory;
  const Json info = memory.info;
  const Tensor frequencies = recorded_frequencies(json_at<Json>(info, "model", "memory artifact"), "model");
  result.k_LGNE = shift_keys(memory.k_LGNE, at::full({memory.rows()}, offset, at::kLong), frequencies);
  result.int8.reset();
  result.info["positions"] = {
      {"first", memory.first() + offset}, {"count", memory.rows()}, {"rotated", true}};
  return result;
}

MemoryArtifact compose(const std::vector<MemoryArtifact>& memories, const std::vector<std::string>& names) {
  check_joinable(memories, names);
  MemoryArtifact result;
  result.kind = memories[0].kind;
  const int64_t header = memories[0].header();
  std::vector<Tensor> keys, values, embeds;
  int64_t rows = 0;
  for (const MemoryArtifact& memory : memories) {
    // The first memory brings the header; of the others only the slots come.
    const int64_t first = rows == 0 ? 0 : header, count = memory.rows() - first;
    if (memory.kind == "kv") {
      const MemoryArtifact moved = moved_by(memory, rows == 0 ? 0 : rows - header);
      keys.push_back(rows_of(moved, first, count, true).to(at::kFloat));
      values.push_back(rows_of(moved, first, count, false).to(at::kFloat));
    } else {
      embeds.push_back(memory.embeds_ND.narrow(0, first, count).to(at::kFloat));
    }
    rows += count;
  }
  if (result.kind == "kv") {
    result.k_LGNE = at::cat(keys, 2).to(memories[0].k_LGNE.scalar_type());
    result.v_LGNE = at::cat(values, 2).to(memories[0].v_LGNE.scalar_type());
  } else {
    result.embeds_ND = at::cat(embeds).to(memories[0].embeds_ND.scalar_type());
  }
  result.info = joined_record(memories, rows);
  return result;
}

MemoryArtifact prefilled(const MemoryArtifact& memory, const Backbone& backbone) {
  CTXC_CHECK(memory.kind == "embeds", ErrorKind::kUsage, "", "a memory of kind {} has been read already",
             memory.kind);
  const at::NoGradGuard no_grad;
  const int64_t length = memory.rows();
  PackedRows rows;
  rows.embeds_PD = memory.embeds_ND.to(backbone.device(), backbone.compute_dtype());
  rows.positions_P = at::arange(length, at::kLong).to(backbone.device());
  rows.segments = {{.length = length, .mask_TS = {}, .prefix_row = -1}};
  const auto kv =
      backbone.forward(rows, {.collect = {}, .layers = 0, .keep_kv = true, .adapters = nullptr}).kv;
  MemoryArtifact result;
  result.kind = "kv";
  std::vector<Tensor> keys, values;
  for (const KvPair& pair : kv) {
    keys.push_back(pair.key_BGKE[0].cpu());
    values.push_back(pair.value_BGKE[0].cpu());
  }
  result.k_LGNE = at::stack(keys).to(memory.embeds_ND.scalar_type());
  result.v_LGNE = at::stack(values).to(memory.embeds_ND.scalar_type());
  result.info = memory.info;
  result.info["kind"] = "kv";
  result.info["made_from"] = "embeds";
  return result;
}

}  // namespace ctxc
