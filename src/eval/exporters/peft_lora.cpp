// peft-lora: adapters that ctxc-run compile --keep-lora kept, as a PEFT LORA folder (export-formats.md
// section 3.4). Merge rule W' = W + (alpha / rank) B A, as ours. The buffers' input embeddings lie beside it:
// with them the compile pass can be repeated (adapter on for the buffers' rows only, over the frozen keys and
// values of header and context).
#include <filesystem>

#include "core/file.h"
#include "eval/exporter.h"
#include "eval/memory_export.h"
#include "model/lora_artifact.h"
#include "model/weights.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

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
}

CTXC_REGISTER_EXPORTER(peft_lora, "peft-lora", true, write_peft_lora,
                       "adapters kept by ctxc-run compile --keep-lora as a PEFT LORA adapter");

}  // namespace
}  // namespace ctxc
