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


def load_cache(model, folder=FOLDER):
    """A fresh cache; make one for every request, generation grows it in place."""
    with safe_open(pathlib.Path(folder) / "cache.safetensors", "pt") as file:
        layers = json.loads(file.metadata()["ctxc"])["model"]["num_hidden_layers"]
        return DynamicCache([tuple(file.get_tensor(f"{kind}_cache.{layer}").to(model.device, model.dtype)
                                   for kind in ("key", "value")) for layer in range(layers)])


def argument(model):
    """Newer versions of transformers call it `cache`."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def generate(model, query_ids, folder=FOLDER, **options):
    """New token ids after the memory and query_ids [1, S]. The placeholders stand for the memory's rows: without them
    some versions of transformers go on at wrong positions, without an error."""
    cache = load_cache(model, folder)
    rows = cache.get_seq_length()
    ids = torch.cat([query_ids.new_zeros(1, rows), query_ids], dim=1)
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **{argument(model): cache}, **options)
    return out[:, ids.shape[1]:]
)";

constexpr const char* kUse = R"(python
from load_cache import argument, generate, load_cache    # this folder on sys.path
new_ids = generate(model, tokenizer(question, add_special_tokens=False, return_tensors="pt").input_ids, max_new_tokens=64)
logits = model(input_ids=query_ids, **{argument(model): load_cache(model)}).logits)";

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
                    model_card(memory, "hf-cache", "cache.safetensors, load_cache.py", kUse));
}

CTXC_REGISTER_EXPORTER(hf_cache, "hf-cache", true, write_hf_cache,
                       "a memory (kind kv) as a DynamicCache of transformers, with its loader");

}  // namespace
}  // namespace ctxc
