// peft-prefix, peft-cartridge: a memory of kind `kv` as a PEFT adapter folder (export-formats.md sections 3.2
// and 3.3). Both hold prompt_embeddings [N, 2 layers G E]: reshaped to [N, 2 layers, G, E], entry 2 l is the
// key of layer l, 2 l + 1 its value. PREFIX_TUNING is read by every version of peft, CARTRIDGE by those that
// have it.
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "eval/exporter.h"
#include "eval/memory_export.h"
#include "eval/model_card.h"
#include "model/weights.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

/// [N, 2 layers G E]
Tensor prefix_rows(const MemoryArtifact& memory) {
  const Tensor both_LPGNE = at::stack({memory.k_LGNE, memory.v_LGNE}, 1);
  return both_LPGNE.permute({3, 0, 1, 2, 4}).reshape({memory.rows(), -1}).contiguous();
}

CardUse use_of(const MemoryArtifact& memory) {
  CardUse use = peft_use();
  const int64_t first = memory.first();
  if (first == 0) {
    use.note =
        "Questions of one batch must have equally many tokens: PEFT 0.17 drops the positions that padding on "
        "the left needs, without an error (0.21.2 with transformers 5.23 reads such a batch rightly).";
    return use;
  }
  // PEFT counts positions from 0 and takes no others.
  use.packages = use.python = "";
  use.note = fmt::format(
      "The keys were moved by {0} positions and PEFT counts from 0, so alone this adapter is read wrongly: "
      "it is "
      "the second part of a joined adapter. Concatenate `prompt_embeddings` [rows, ...] of an adapter of "
      "exactly "
      "{0} rows and of this one, and set `num_virtual_tokens` to {1} (`compose_cartridge_adapters` of PEFT "
      "does "
      "so for CARTRIDGE).",
      first, first + memory.rows());
  return use;
}

void write_prefix(const ExportRequest& request, const std::string& target, OrderedJson extra) {
  const MemoryArtifact memory = load_kv(request, target);
  const Json info = memory.info;
  const int64_t groups = memory.k_LGNE.size(1), width = memory.k_LGNE.size(3);
  OrderedJson config = {{"peft_type", target == "peft-prefix" ? "PREFIX_TUNING" : "CARTRIDGE"},
                        {"task_type", "CAUSAL_LM"},
                        {"base_model_name_or_path", base_of(request, info)},
                        {"revision", nullptr},
                        {"inference_mode", true},
                        {"num_virtual_tokens", memory.rows()},
                        {"token_dim", groups * width},
                        {"num_transformer_submodules", 1},
                        {"num_attention_heads", groups},
                        {"num_layers", memory.k_LGNE.size(0)},
                        {"modules_to_save", nullptr}};
  config.update(extra);
  if (target == "peft-prefix") config["encoder_hidden_size"] = groups * width;
  write_file_atomic((fs::path(request.out) / "adapter_config.json").string(), config.dump(2) + "\n");
  save_tensors((fs::path(request.out) / "adapter_model.safetensors").string(),
               {{"prompt_embeddings", prefix_rows(memory)}}, {{"format", "pt"}});
  write_file_atomic((fs::path(request.out) / "README.md").string(),
                    model_card(memory, request, target, use_of(memory)));
}

void write_peft_prefix(const ExportRequest& request) {
  write_prefix(request, "peft-prefix", {{"prefix_projection", false}});
}
void write_peft_cartridge(const ExportRequest& request) {
  write_prefix(request, "peft-cartridge", {{"num_frozen_tokens", 1}});
}

CTXC_REGISTER_EXPORTER(peft_prefix, "peft-prefix", true, write_peft_prefix,
                       "a memory (kind kv) as a PEFT PREFIX_TUNING adapter", "offset");
CTXC_REGISTER_EXPORTER(peft_cartridge, "peft-cartridge", true, write_peft_cartridge,
                       "a memory (kind kv) as a PEFT CARTRIDGE adapter (newer versions of peft)", "offset");

}  // namespace
}  // namespace ctxc
