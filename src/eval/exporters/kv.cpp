// kv: a memory as a memory of kind `kv`. Kind `embeds` is read once by its base, so every engine that takes a
// cache can have it; kind `kv` only changes its storage (--dtype, int8 included).
#include "core/error.h"
#include "eval/exporter.h"
#include "eval/memory_export.h"
#include "model/memory_edit.h"

namespace ctxc {
namespace {

void write_kv(const ExportRequest& request) {
  CTXC_CHECK(request.offset == 0, ErrorKind::kUsage,
             "use --offset with the targets of other programs, or ctxc-run compose",
             "a memory artifact stands at position 0 (found --offset {})", request.offset);
  MemoryArtifact memory = load_any_memory(request.in, "kv");
  if (memory.kind == "embeds") {
    const Json info = memory.info;
    const std::string base = base_of(request, info);
    CTXC_CHECK(!base.empty(), ErrorKind::kUsage, "name the base with --model",
               "{}: the memory does not name its base", request.in);
    const auto backbone = Backbone::load(base);
    check_memory_fits(memory, *backbone, Tokenizer::load(base), false);
    memory = prefilled(memory, *backbone);
  }
  save_memory(request.out, request.dtype.empty() ? memory : stored_as(memory, request.dtype));
}

CTXC_REGISTER_EXPORTER(kv, "kv", false, write_kv,
                       "a memory as kind kv (embeds by one prefill of the base); --dtype int8 halves it",
                       "offset");

}  // namespace
}  // namespace ctxc
