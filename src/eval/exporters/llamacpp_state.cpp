// llamacpp-state: a memory of kind `kv` as a sequence-state file of llama.cpp (eval/llama_state.h), which
// stock llama-server restores into a slot.
#include <limits>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "eval/card_python.h"
#include "eval/exporter.h"
#include "eval/llama_state.h"
#include "eval/memory_export.h"

namespace ctxc {
namespace {

/// The id asked for, else the one of the user's file: a token that a prompt can hold.
int32_t placeholder_of(const ExportRequest& request, const MemoryArtifact& memory,
                       const LlamaStateForm& form) {
  const Json model = json_at<Json>(Json(memory.info), "model", request.in);
  const int64_t vocabulary =
      json_or<int64_t>(model, "vocab_size", int64_t{std::numeric_limits<int32_t>::max()}, request.in);
  const ErrorKind kind = request.llama_placeholder ? ErrorKind::kUsage : ErrorKind::kInput;
  const int64_t id = request.llama_placeholder.value_or(form.placeholder);
  const std::string origin =
      request.llama_placeholder ? "--llama-placeholder" : request.llama_state_like + ": first id";
  CTXC_CHECK(id >= 0 && id < vocabulary && id <= std::numeric_limits<int32_t>::max(), kind,
             "give --llama-placeholder an id of the vocabulary",
             "{}: is no token (found {}, expected 0 to {})", origin, id, vocabulary - 1);
  return static_cast<int32_t>(id);
}

/// From a file the user's own program saved, from what the request says, else what newer builds use.
LlamaStateForm form_of(const ExportRequest& request, const MemoryArtifact& memory) {
  LlamaStateForm form;
  if (!request.llama_state_like.empty()) {
    form = read_llama_state(request.llama_state_like, memory.k_LGNE.size(1), memory.k_LGNE.size(3)).form;
    CTXC_CHECK(request.llama_state_version.value_or(form.version) == form.version, ErrorKind::kUsage,
               "leave --llama-state-version out", "{}: has version {}, --llama-state-version says {}",
               request.llama_state_like, form.version, *request.llama_state_version);
  } else {
    form.version = request.llama_state_version.value_or(form.version);
  }
  if (!request.llama_flash_attention.empty()) {
    CTXC_CHECK(request.llama_flash_attention == "on" || request.llama_flash_attention == "off",
               ErrorKind::kUsage, "",
               "--llama-flash-attention: unknown value (found '{}', expected on or off)",
               request.llama_flash_attention);
    form.transposed = request.llama_flash_attention == "off";
  }
  if (!request.dtype.empty()) form.key_type = form.value_type = float_type(request.dtype);
  form.placeholder = placeholder_of(request, memory, form);
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
  const Json info = memory.info;
  log_info(
      fmt::format("{0} rows, version {1}, flash attention {2}: start llama-server with --slot-save-path, "
                  "restore the file into a "
                  "slot, and send a prompt of {0} ids {3} followed by the question, {4}",
                  memory.rows(), form.version, form.transposed ? "off" : "on", form.placeholder,
                  question_expression(card_prompt(info, base_of(request, info), request.in))));
}

CTXC_REGISTER_EXPORTER(llamacpp_state, "llamacpp-state", false, write_state,
                       "a memory (kind kv) as a sequence state of llama.cpp (llama-server slot restore)",
                       "offset", "llama-state-version", "llama-state-like", "llama-flash-attention",
                       "llama-placeholder");

}  // namespace
}  // namespace ctxc
