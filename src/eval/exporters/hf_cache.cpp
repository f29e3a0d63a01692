// hf-cache: a memory of kind `kv` for transformers (export-formats.md section 2.2), which has no file format
// of its own for a cache: cache.safetensors with key_cache.L and value_cache.L [1, G, N, E], and a loader of
// a few lines that makes a DynamicCache of it in every version and generates in the one way that is right in
// all of them.
#include <filesystem>

#include "core/file.h"
#include "eval/exporter.h"
#include "eval/memory_export.h"
#include "eval/model_card.h"
#include "model/weights.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

constexpr const char* kLoader = R"("""Loads a compressed context of ctxc as a cache of transformers."""
import inspect
import json
import pathlib

import torch
from safetensors import safe_open
from transformers import DynamicCache

FOLDER = pathlib.Path(__file__).resolve().parent


def stored(folder):
    """Keys and values [1, G, N, E] of every layer, and the position of the first row."""
    with safe_open(pathlib.Path(folder) / "cache.safetensors", "pt") as file:
        record = json.loads(file.metadata()["ctxc"])
        layers = [tuple(file.get_tensor(f"{kind}_cache.{layer}") for kind in ("key", "value"))
                  for layer in range(record["model"]["num_hidden_layers"])]
    return layers, record.get("positions", {}).get("first", 0)


def load_cache(model, folder=FOLDER, batch=1, front_ids=None):
    """A fresh cache of `batch` equal rows; make one for every request, generation grows it in place. front_ids [1, P] is the
    text in front of a memory that was exported with --offset P; the model reads it first."""
    layers, first = stored(folder)
    found = 0 if front_ids is None else front_ids.shape[1]
    if found != first:
        raise ValueError(f"the memory stands behind {first} tokens (ctxc-export --offset), front_ids has {found}")
    layers = [tuple(rows.to(model.device, model.dtype).repeat(batch, 1, 1, 1) for rows in layer) for layer in layers]
    if first == 0:
        return DynamicCache(layers)
    with torch.no_grad():
        cache = model(input_ids=front_ids.to(model.device).repeat(batch, 1), use_cache=True).past_key_values
    for number, (keys, values) in enumerate(layers):
        cache.update(keys, values, number)
    return cache


def argument(model):
    """Newer versions of transformers call it `cache`."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def generate(model, query_ids, folder=FOLDER, attention_mask=None, front_ids=None, **options):
    """New token ids [B, n] after the memory and query_ids [B, S], which are padded on the left where attention_mask [B, S]
    is 0. The placeholders stand for the memory's rows: without them some versions of transformers go on at wrong
    positions, without an error."""
    batch = query_ids.shape[0]
    cache = load_cache(model, folder, batch, front_ids)
    rows = cache.get_seq_length()
    mask = torch.ones_like(query_ids) if attention_mask is None else attention_mask
    ids = torch.cat([query_ids.new_zeros(batch, rows), query_ids], dim=1)
    mask = torch.cat([mask.new_ones(batch, rows), mask], dim=1)
    out = model.generate(input_ids=ids, attention_mask=mask, **{argument(model): cache}, **options)
    return out[:, ids.shape[1]:]
)";

CardUse use_of(const MemoryArtifact& memory) {
  CardUse use{.files = "cache.safetensors, load_cache.py", .standard = "import sys\n"};
  const int64_t first = memory.first();
  use.python = R"(
sys.path.insert(0, FOLDER)
from load_cache import generate  # noqa: E402
)";
  if (first == 0) {
    use.python += "\nnew_ids = generate(base, ids, **GREEDY)\n";
  } else {
    use.python += fmt::format(R"(
front_ids = tokenizer("THE TEXT IN FRONT", add_special_tokens=False, return_tensors="pt").input_ids  # exactly {} ids
new_ids = generate(base, ids, front_ids=front_ids, **GREEDY)
)",
                              first);
    use.note = fmt::format(
        "The keys were moved by {0} positions: the memory stands behind a text of exactly {0} ids, "
        "which the base reads first.",
        first);
  }
  use.python += "print(answer_text(new_ids[0]))\n";
  return use;
}

void write_hf_cache(const ExportRequest& request) {
  const MemoryArtifact memory = load_kv(request, "hf-cache");
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (int64_t layer = 0; layer < memory.k_LGNE.size(0); ++layer) {
    tensors.emplace_back(fmt::format("key_cache.{}", layer), memory.k_LGNE[layer].unsqueeze(0).contiguous());
    tensors.emplace_back(fmt::format("value_cache.{}", layer),
                         memory.v_LGNE[layer].unsqueeze(0).contiguous());
  }
  save_tensors((fs::path(request.out) / "cache.safetensors").string(), tensors,
               {{"format", "pt"}, {"ctxc", memory.info.dump()}});
  write_file_atomic((fs::path(request.out) / "load_cache.py").string(), kLoader);
  write_file_atomic((fs::path(request.out) / "README.md").string(),
                    model_card(memory, request, "hf-cache", use_of(memory)));
}

CTXC_REGISTER_EXPORTER(hf_cache, "hf-cache", true, write_hf_cache,
                       "a memory (kind kv) as a DynamicCache of transformers, with its loader", "offset");

}  // namespace
}  // namespace ctxc
