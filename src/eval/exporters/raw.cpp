// raw: a memory as bare little-endian numbers, embeddings [N, D] or keys and values [layers, G, N, E] each,
// and a JSON that says what they are: for engines that take embeddings through a C API (llama_batch.embd) or
// HTTP.
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "eval/exporter.h"
#include "eval/memory_export.h"
#include "eval/model_card.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

void write_numbers(const std::string& folder, const std::string& name, const Tensor& rows) {
  const Tensor packed = rows.contiguous();
  AtomicFile file((fs::path(folder) / name).string());
  file.write(std::span(static_cast<const std::byte*>(packed.const_data_ptr()), packed.nbytes()));
  file.commit();
}

constexpr const char* kEmbeds = R"(
with open(f"{FOLDER}/embeds.json", encoding="utf-8") as file:
    about = json.load(file)
with open(f"{FOLDER}/embeds.bin", "rb") as file:
    rows = torch.frombuffer(bytearray(file.read()), dtype=getattr(torch, about["dtype"])).view(about["shape"])
with torch.no_grad():
    embeds = torch.cat([rows[None].to(base.dtype), base.get_input_embeddings()(ids)], dim=1)
mask = torch.ones(embeds.shape[:2], dtype=torch.long)
new_ids = base.generate(inputs_embeds=embeds, attention_mask=mask, **GREEDY)
print(answer_text(new_ids[0]))
)";

constexpr const char* kKeysAndValues = R"(
with open(f"{FOLDER}/kv.json", encoding="utf-8") as file:
    about = json.load(file)


def numbers(name):
    """[layers, G, N, E]"""
    with open(f"{FOLDER}/{name}", "rb") as file:
        return torch.frombuffer(bytearray(file.read()), dtype=getattr(torch, about["dtype"])).view(about["shape"])


keys, values = numbers("k.bin").to(base.dtype), numbers("v.bin").to(base.dtype)
cache = DynamicCache([(keys[layer][None], values[layer][None]) for layer in range(len(keys))])
# Placeholders stand for the memory's rows; newer versions of transformers call the argument `cache`.
ids = torch.cat([ids.new_zeros(1, keys.shape[2]), ids], dim=1)
name = "cache" if "cache" in inspect.signature(base.forward).parameters else "past_key_values"
out = base.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **{name: cache}, **GREEDY)
print(answer_text(out[0, ids.shape[1]:]))
)";

CardUse use_of(const MemoryArtifact& memory) {
  if (memory.kind == "embeds")
    return {.files = "embeds.bin [N, D], embeds.json", .standard = "import json\n", .python = kEmbeds};
  CardUse use{.files = "k.bin and v.bin [layers, G, N, E], kv.json"};
  const int64_t first = memory.first();
  if (first == 0) {
    use.standard = "import inspect\nimport json\n";
    use.packages = "from transformers import DynamicCache\n";
    use.python = kKeysAndValues;
  } else {
    use.note = fmt::format(
        "The keys were moved by {0} positions: the memory stands behind keys and values of exactly {0} other "
        "positions.",
        first);
  }
  return use;
}

void write_raw(const ExportRequest& request) {
  ExportRequest wide = request;
  if (wide.dtype.empty()) wide.dtype = "float32";
  const bool kv = load_any_memory(request.in, "raw").kind == "kv";
  CTXC_CHECK(kv || request.offset == 0, ErrorKind::kUsage, "leave --offset out",
             "--offset: input embeddings have no positions to move (a memory of kind embeds)");
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
  write_file_atomic((fs::path(request.out) / "README.md").string(),
                    model_card(memory, request, "raw", use_of(memory)));
}

CTXC_REGISTER_EXPORTER(raw, "raw", true, write_raw,
                       "a memory (either kind) as bare numbers and a JSON description", "offset");

}  // namespace
}  // namespace ctxc
