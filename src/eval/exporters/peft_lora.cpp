// peft-lora: adapters that ctxc-run compile --keep-lora kept, as a PEFT LORA folder (export-formats.md
// section 3.4). Merge rule W' = W + (alpha / rank) B A, as ours. The buffers' input embeddings lie beside it:
// with them the compile pass can be repeated (adapter on for the buffers' rows only, over the frozen keys and
// values of header and context).
#include <filesystem>

#include "core/file.h"
#include "eval/exporter.h"
#include "eval/memory_export.h"
#include "eval/model_card.h"
#include "model/lora_artifact.h"
#include "model/weights.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

constexpr const char* kPython = R"(
model = PeftModel.from_pretrained(base, FOLDER).eval()
with open("TEXT.txt", encoding="utf-8") as file:  # the text that was compiled
    text = file.read()
ids = torch.tensor([HEADER + tokenizer(text, add_special_tokens=False).input_ids])
buffers = load_file(f"{FOLDER}/buffers.safetensors")["buffers"][None]
mask = torch.ones(1, ids.shape[1] + buffers.shape[1], dtype=torch.long)
with torch.no_grad():
    with model.disable_adapter():  # header and text: the base alone
        cache = model(input_ids=ids, use_cache=True).past_key_values
    cache = model(inputs_embeds=buffers, past_key_values=cache, attention_mask=mask, use_cache=True).past_key_values
slots = [(layer.keys[:, :, ids.shape[1]:], layer.values[:, :, ids.shape[1]:]) for layer in cache.layers]
print(len(slots), "layers of keys and values", tuple(slots[0][0].shape))
)";

/// The ids in front of the text; files of older versions do not name them.
std::string header_line(const LoraArtifact& lora) {
  if (lora.info.contains("header_token_ids"))
    return fmt::format("\nHEADER = {}\n", lora.info["header_token_ids"].dump());
  return "\nHEADER = []  # not recorded: put header_token_ids of the memory here (ctxc-inspect MEMORY)\n";
}

CardUse use_of(const LoraArtifact& lora) {
  CardUse use{.files = "adapter_config.json, adapter_model.safetensors"};
  if (!lora.buffers_KD.defined()) {
    use.note = "The buffers' input embeddings were not kept: the compile pass cannot be repeated from here.";
    return use;
  }
  use.files += ", buffers.safetensors";
  use.packages = "from peft import PeftModel\nfrom safetensors.torch import load_file\n";
  use.python = header_line(lora) + kPython;
  use.note =
      "Values are those of the memory's slots; its keys are the same, turned from behind the text to behind "
      "the header.";
  return use;
}

void write_peft_lora(const ExportRequest& request) {
  const LoraArtifact lora = load_lora(request.in);
  const at::ScalarType type = request.dtype.empty() ? at::kFloat : float_type(request.dtype);
  const OrderedJson config = {{"peft_type", "LORA"},
                              {"task_type", "CAUSAL_LM"},
                              {"base_model_name_or_path", base_of(request, lora.info)},
                              {"revision", nullptr},
                              {"inference_mode", true},
                              {"r", lora.config.rank},
                              {"lora_alpha", lora.config.alpha},
                              {"lora_dropout", 0.0},
                              {"bias", "none"},
                              {"target_modules", lora.config.targets}};
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& [name, tensor] : lora.tensors) {
    const LoraName part = lora_name(name, request.in);
    const bool mlp =
        part.projection == "gate_proj" || part.projection == "up_proj" || part.projection == "down_proj";
    tensors.emplace_back(fmt::format("base_model.model.model.layers.{}.{}.{}.{}.weight", part.layer,
                                     mlp ? "mlp" : "self_attn", part.projection, part.half),
                         tensor.to(type).contiguous());
  }
  const fs::path out = request.out;
  write_file_atomic((out / "adapter_config.json").string(), config.dump(2) + "\n");
  save_tensors((out / "adapter_model.safetensors").string(), tensors, {{"format", "pt"}});
  if (lora.buffers_KD.defined())
    save_tensors((out / "buffers.safetensors").string(), {{"buffers", lora.buffers_KD.contiguous()}},
                 {{"format", "pt"}});
  write_file_atomic((out / "README.md").string(), adapter_card(lora, request, "peft-lora", use_of(lora)));
}

CTXC_REGISTER_EXPORTER(peft_lora, "peft-lora", true, write_peft_lora,
                       "adapters kept by ctxc-run compile --keep-lora as a PEFT LORA adapter");

}  // namespace
}  // namespace ctxc
