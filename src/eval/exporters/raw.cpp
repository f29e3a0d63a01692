// raw: a memory as bare little-endian numbers, embeddings [N, D] or keys and values [layers, G, N, E] each,
// and a JSON that says what they are: for engines that take embeddings through a C API (llama_batch.embd) or
// HTTP.
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "eval/exporter.h"
#include "eval/memory_export.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

void write_numbers(const std::string& folder, const std::string& name, const Tensor& rows) {
  const Tensor packed = rows.contiguous();
  AtomicFile file((fs::path(folder) / name).string());
  file.write(std::span(static_cast<const std::byte*>(packed.const_data_ptr()), packed.nbytes()));
  file.commit();
}

void write_raw(const ExportRequest& request) {
  ExportRequest wide = request;
  if (wide.dtype.empty()) wide.dtype = "float32";
  const bool kv = load_any_memory(request.in, "raw").kind == "kv";
  const MemoryArtifact memory = kv ? load_kv(wide, "raw") : load_embeds(request.in, "raw");
  OrderedJson about = {{"dtype", wide.dtype}, {"byte_order", "little"}};
  if (kv) {
    write_numbers(request.out, "k.bin", memory.k_LGNE);
    write_numbers(request.out, "v.bin", memory.v_LGNE);
    about["files"] = {"k.bin", "v.bin"};
    about["shape"] = memory.k_LGNE.sizes().vec();
  } else {
    write_numbers(request.out, "embeds.bin", memory.embeds_ND.to(float_type(wide.dtype)));
    about["file"] = "embeds.bin";
    about["shape"] = memory.embeds_ND.sizes().vec();
  }
  about["memory"] = memory.info;
  write_file_atomic((fs::path(request.out) / (kv ? "kv.json" : "embeds.json")).string(),
                    about.dump(2) + "\n");
}

CTXC_REGISTER_EXPORTER(raw, "raw", true, write_raw,
                       "a memory (either kind) as bare numbers and a JSON description");

}  // namespace
}  // namespace ctxc
