#include "eval/model_card.h"

#include <fmt/format.h>

#include "core/text.h"
#include "eval/card_python.h"
#include "eval/memory_export.h"

namespace ctxc {
namespace {

std::string value_text(const OrderedJson& value) {
  if (value.is_string()) return value.get<std::string>();
  return value.is_number_float() ? fmt::format("{:.4g}", value.get<double>()) : value.dump();
}

/// Rows "name | value" of the numbers that were measured when the memory was made.
void add_metrics(const OrderedJson& info, std::vector<std::vector<std::string>>& rows) {
  if (!info.contains("metrics") || !info["metrics"].is_object()) return;
  const std::pair<const char*, const char*> names[] = {
      {"heldout_kl", "KL to the full context on unseen queries"},
      {"probe_nll", "NLL of a token of the context's probes"},
      {"recon_token_acc", "greedy reconstruction, equal tokens"},
      {"steps", "steps"},
      {"seconds", "seconds"}};
  const OrderedJson& metrics = info["metrics"];
  for (const auto& [key, name] : names)
    if (metrics.contains(key)) rows.push_back({name, value_text(metrics[key])});
  if (metrics.contains("segments"))
    rows.push_back({"compiled in segments, numbers over all", fmt::format("{}", metrics["segments"].size())});
  if (metrics.contains("failed") && !metrics["failed"].empty())
    rows.push_back({"FAILED its gates", metrics["failed"].dump()});
}

/// Rows "name | value" on the base.
std::vector<std::vector<std::string>> base_rows(const OrderedJson& info, const std::string& base) {
  const OrderedJson model = info.value("model", OrderedJson::object());
  return {{"what", "value"},
          {"base", base},
          {"weights fingerprint", value_text(model.value("weights_fingerprint", OrderedJson("")))},
          {"method", value_text(info.value("method", OrderedJson("")))}};
}

std::string title(const std::string& what, const OrderedJson& info) {
  const OrderedJson model = info.value("model", OrderedJson::object());
  return fmt::format("# {} for {}\n\n", what, value_text(model.value("architecture", OrderedJson(""))));
}

/// How a question is put, in words.
std::string question_words(const MemoryArtifact& memory, const CardPrompt& prompt) {
  const Json info = memory.info;
  std::string text;
  if (memory.header() > 0)
    text += fmt::format("The first {} rows are those of `header_token_ids` {}. ", memory.header(),
                        json_or<Json>(info, "header_token_ids", Json::array(), "memory artifact").dump());
  text += fmt::format(
      "The query goes on at position {}, without a BOS of its own. For a question it is the ids of `{}`{}",
      memory.first() + memory.rows(), question_expression(prompt),
      prompt.config.split_question && question_expression(prompt).find(", ") != std::string::npos
          ? " (parts tokenised apart)"
          : "");
  if (prompt.config.cleanup == "mrqa_v1")
    text += ", the question ending in a question mark and its punctuation put together as in the script";
  text += ".\n\n";
  if (!prompt.turn_close_known)
    text +=
        "**Not recorded**: what closes the question's turn and opens the answer's in the base's chat format. "
        "It must stand at the end of that text (for ChatML `<|im_end|>\\n<|im_start|>assistant\\n`).\n\n";
  return text;
}

}  // namespace

CardUse peft_use() {
  return {.files = "adapter_config.json, adapter_model.safetensors",
          .packages = "from peft import PeftModel\n",
          .python = R"(
model = PeftModel.from_pretrained(base, FOLDER).eval()
out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **GREEDY)
print(answer_text(out[0, ids.shape[1]:]))
)",
          .note =
              "With transformers 5.24.0 `generate()` of PEFT 0.21.2 drops every prefix and prompt without an "
              "error; with 4.57.3 / 0.17.1 and 5.23.0 / 0.21.2 it is right."};
}

std::string model_card(const MemoryArtifact& memory, const ExportRequest& request, const std::string& target,
                       const CardUse& use) {
  const OrderedJson& info = memory.info;
  const Json record = info;
  const std::string base = base_of(request, record);
  const CardPrompt prompt = card_prompt(record, base, request.in);
  std::vector<std::vector<std::string>> rows = base_rows(info, base);
  rows.push_back({"kind", memory.kind});
  rows.push_back({"rows", fmt::format("{} ({} header, {} slots)", memory.rows(), memory.header(),
                                      memory.rows() - memory.header())});
  if (memory.first() != 0)
    rows.push_back(
        {"positions", fmt::format("{} to {}", memory.first(), memory.first() + memory.rows() - 1)});
  if (info.contains("context"))
    rows.push_back({"context tokens", value_text(info["context"].value("n_tokens", OrderedJson(0)))});
  if (info.contains("ratio")) rows.push_back({"ratio", value_text(info["ratio"])});
  add_metrics(info, rows);
  std::string text = title("A compressed context", info);
  text += fmt::format(
      "Made by ctxc (`ctxc-export --to {}`). The base named below, unchanged, reads these rows instead of a "
      "text; on another base or tokenizer they mean nothing.\n\n{}\nFiles: {}\n\n",
      target, format_table(rows), use.files);
  text += question_words(memory, prompt);
  if (!use.python.empty())
    text += "```python\n" + python_base(base, use.standard, use.packages) + python_question(prompt) +
            use.python + "```\n";
  if (!use.note.empty()) text += "\n" + use.note + "\n";
  return text;
}

std::string adapter_card(const LoraArtifact& lora, const ExportRequest& request, const std::string& target,
                         const CardUse& use) {
  const OrderedJson& info = lora.info;
  const std::string base = base_of(request, Json(info));
  std::vector<std::vector<std::string>> rows = base_rows(info, base);
  rows.push_back({"rank", fmt::format("{}", lora.config.rank)});
  rows.push_back({"alpha", fmt::format("{}", lora.config.alpha)});
  rows.push_back({"targets", join(lora.config.targets, ", ")});
  std::string text = title("Adapters that compiled a context", info);
  text += fmt::format(
      "Made by ctxc (`ctxc-export --to {}`). They made a memory's slots and are not needed to read it: with "
      "them the compile pass can be repeated.\n\n{}\nFiles: {}\n\n",
      target, format_table(rows), use.files);
  if (!use.python.empty())
    text += "```python\n" + python_base(base, use.standard, use.packages) + use.python + "```\n";
  if (!use.note.empty()) text += "\n" + use.note + "\n";
  return text;
}

}  // namespace ctxc
