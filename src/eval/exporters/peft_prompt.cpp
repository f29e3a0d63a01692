// peft-prompt: a memory of kind `embeds` as a PEFT adapter folder of type PROMPT_TUNING (export-formats.md
// section 3.1). The real peft package loads it with PeftModel.from_pretrained; virtual tokens stand before
// the query, which must come without a BOS of its own when the memory's header has one.
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

void write_peft_prompt(const ExportRequest& request) {
  const MemoryArtifact memory = load_embeds(request.in, "peft-prompt");
  const Json info = memory.info;
  const Json model = json_at<Json>(info, "model", request.in);
  const int64_t key_value_heads = json_at<int64_t>(model, "num_key_value_heads", request.in);
  const OrderedJson config = {
      {"peft_type", "PROMPT_TUNING"},
      {"task_type", "CAUSAL_LM"},
      {"base_model_name_or_path", base_of(request, info)},
      {"revision", nullptr},
      {"inference_mode", true},
      {"num_virtual_tokens", memory.embeds_ND.size(0)},
      {"token_dim", memory.embeds_ND.size(1)},
      {"num_transformer_submodules", 1},
      {"num_attention_heads", json_or<int64_t>(model, "num_attention_heads", key_value_heads, request.in)},
      {"num_layers", json_at<int64_t>(model, "num_hidden_layers", request.in)},
      {"prompt_tuning_init", "RANDOM"},
      {"prompt_tuning_init_text", nullptr},
      {"tokenizer_name_or_path", nullptr},
      {"tokenizer_kwargs", nullptr},
      {"modules_to_save", nullptr}};
  write_file_atomic((fs::path(request.out) / "adapter_config.json").string(), config.dump(2) + "\n");
  const Tensor embeds_ND = memory.embeds_ND.to(embeds_type(request.dtype, memory)).contiguous();
  save_tensors((fs::path(request.out) / "adapter_model.safetensors").string(),
               {{"prompt_embeddings", embeds_ND}}, {{"format", "pt"}});
  write_file_atomic((fs::path(request.out) / "README.md").string(),
                    model_card(memory, request, "peft-prompt", peft_use()));
}

CTXC_REGISTER_EXPORTER(peft_prompt, "peft-prompt", true, write_peft_prompt,
                       "a memory (kind embeds) as a PEFT PROMPT_TUNING adapter");

}  // namespace
}  // namespace ctxc
