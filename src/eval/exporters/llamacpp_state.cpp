// llamacpp-state: a memory of kind `kv` as a sequence-state file of llama.cpp (eval/llama_state.h), which
// stock llama-server restores into a slot.
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "eval/exporter.h"
#include "eval/llama_state.h"
#include "eval/memory_export.h"

namespace ctxc {
namespace {

/// From a file the user's own program saved, from what the request says, else what newer builds use.
LlamaStateForm form_of(const ExportRequest& request, const MemoryArtifact& memory) {
  LlamaStateForm form;
  if (!request.llama_state_like.empty()) {
    form = read_llama_state(request.llama_state_like, memory.k_LGNE.size(1), memory.k_LGNE.size(3)).form;
    CTXC_CHECK(request.llama_state_version == 0 || request.llama_state_version == form.version,
               ErrorKind::kUsage, "leave --llama-state-version out",
               "{}: has version {}, --llama-state-version says {}", request.llama_state_like, form.version,
               request.llama_state_version);
  } else if (request.llama_state_version != 0) {
    form.version = request.llama_state_version;
  }
  if (!request.llama_flash_attention.empty()) {
    CTXC_CHECK(request.llama_flash_attention == "on" || request.llama_flash_attention == "off",
               ErrorKind::kUsage, "",
               "--llama-flash-attention: unknown value (found '{}', expected on or off)",
               request.llama_flash_attention);
    form.transposed = request.llama_flash_attention == "off";
  }
  if (!request.dtype.empty()) form.key_type = form.value_type = float_type(request.dtype);
  if (request.llama_placeholder >= 0) form.placeholder = static_cast<int32_t>(request.llama_placeholder);
  return form;
}

void write_state(const ExportRequest& request) {
  CTXC_CHECK(request.offset == 0, ErrorKind::kUsage, "leave --offset out",
             "llamacpp-state: a sequence begins at position 0 (found --offset {})", request.offset);
  ExportRequest exact = request;
  exact.dtype = "float32";  // rounded once, to the cache's type
  const MemoryArtifact memory = load_kv(exact, "llamacpp-state");
  const LlamaStateForm form = form_of(request, memory);
  write_file_atomic(request.out, write_llama_state(memory.k_LGNE, memory.v_LGNE, form));
  log_info(fmt::format(
      "{} rows, version {}, flash attention {}: start llama-server with --slot-save-path, restore the file "
      "into a "
      "slot, and send a prompt of {} ids {} followed by the question's ids",
      memory.rows(), form.version, form.transposed ? "off" : "on", memory.rows(), form.placeholder));
}

CTXC_REGISTER_EXPORTER(llamacpp_state, "llamacpp-state", false, write_state,
                       "a memory (kind kv) as a sequence state of llama.cpp (llama-server slot restore)");

}  // namespace
}  // namespace ctxc
