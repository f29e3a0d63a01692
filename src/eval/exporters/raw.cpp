// raw: a memory of kind `embeds` as bare little-endian numbers [N, D], row after row, and a JSON that says
// what they are: for engines that take embeddings through a C API (llama_batch.embd) or HTTP.
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "eval/exporter.h"
#include "eval/memory_export.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

void write_raw(const ExportRequest& request) {
  const MemoryArtifact memory = load_embeds(request.in, "raw");
  const std::string dtype = request.dtype.empty() ? "float32" : request.dtype;
  const Tensor embeds_ND = memory.embeds_ND.to(embeds_type(dtype, memory)).contiguous();
  AtomicFile file((fs::path(request.out) / "embeds.bin").string());
  file.write(std::span(static_cast<const std::byte*>(embeds_ND.const_data_ptr()), embeds_ND.nbytes()));
  file.commit();
  const OrderedJson about = {{"file", "embeds.bin"},
                             {"dtype", dtype},
                             {"byte_order", "little"},
                             {"shape", {embeds_ND.size(0), embeds_ND.size(1)}},
                             {"memory", memory.info}};
  write_file_atomic((fs::path(request.out) / "embeds.json").string(), about.dump(2) + "\n");
}

CTXC_REGISTER_EXPORTER(raw, "raw", true, write_raw,
                       "a memory (kind embeds) as bare numbers and a JSON description");

}  // namespace
}  // namespace ctxc
