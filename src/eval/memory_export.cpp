#include "eval/memory_export.h"

#include <filesystem>

#include "core/error.h"
#include "model/memory_edit.h"

namespace ctxc {

MemoryArtifact load_any_memory(const std::string& path, const std::string& target) {
  CTXC_CHECK(std::filesystem::is_regular_file(path), ErrorKind::kInput,
             "make one with ctxc-run compress or compile",
             "{}: the target '{}' takes a memory artifact (one file)", path, target);
  return load_memory(path);
}

MemoryArtifact load_embeds(const std::string& path, const std::string& target) {
  MemoryArtifact memory = load_any_memory(path, target);
  CTXC_CHECK(memory.kind == "embeds", ErrorKind::kUsage, "keys and values have no form as input embeddings",
             "{}: the target '{}' takes memories of kind embeds (found {})", path, target, memory.kind);
  return memory;
}

MemoryArtifact load_kv(const ExportRequest& request, const std::string& target) {
  MemoryArtifact memory = load_any_memory(request.in, target);
  CTXC_CHECK(memory.kind == "kv", ErrorKind::kUsage, "ctxc-export --to kv turns it into one, exactly",
             "{}: the target '{}' takes memories of kind kv (found {})", request.in, target, memory.kind);
  CTXC_CHECK(request.offset >= 0, ErrorKind::kUsage, "",
             "--offset: out of range (found {}, expected at least 0)", request.offset);
  memory = moved_by(memory, request.offset);
  const at::ScalarType type = request.dtype.empty() ? memory.k_LGNE.scalar_type() : float_type(request.dtype);
  memory.k_LGNE = memory.k_LGNE.to(type).contiguous();
  memory.v_LGNE = memory.v_LGNE.to(type).contiguous();
  memory.int8.reset();
  return memory;
}

at::ScalarType float_type(const std::string& dtype) {
  CTXC_CHECK(dtype == "float32" || dtype == "float16" || dtype == "bfloat16", ErrorKind::kUsage, "",
             "--dtype: this target stores floating point numbers (found '{}', expected bf16, f16 or f32)",
             dtype);
  return dtype == "float32" ? at::kFloat : dtype == "float16" ? at::kHalf : at::kBFloat16;
}

at::ScalarType embeds_type(const std::string& dtype, const MemoryArtifact& memory) {
  return dtype.empty() ? memory.embeds_ND.scalar_type() : float_type(dtype);
}

std::string base_of(const ExportRequest& request, const Json& info) {
  if (!request.model.empty()) return request.model;
  return json_or<std::string>(json_at<Json>(info, "model", request.in), "name_or_path", "", request.in);
}

}  // namespace ctxc
