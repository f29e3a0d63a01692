// vllm-embeds, sglang-embeds: a memory of kind `embeds` as requests to servers that take input embeddings
// (export-formats.md sections 4 and 5).
//   vLLM     base64 of the bytes torch.save writes for a tensor [T, D]; the chat request carries the slots
//   alone, the
//            server renders its template around them; a completion request carries the whole prompt
//   SGLang   JSON numbers [[…D], …T]; the client embeds the whole prompt (the server: --disable-radix-cache)
#include <torch/csrc/jit/serialization/pickle.h>

#include <filesystem>

#include "core/base64.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "data/prompt_record.h"
#include "eval/card_python.h"
#include "eval/exporter.h"
#include "eval/memory_export.h"
#include "eval/model_card.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

/// What Python's torch.load(weights_only=True) reads. torch::save would write a TorchScript archive, which it
/// refuses.
std::string pickled(const Tensor& tensor) {
  const std::vector<char> bytes = torch::jit::pickle_save(c10::IValue(tensor.clone()));
  return std::string(bytes.begin(), bytes.end());
}

std::string base64_of(const std::string& bytes) {
  return base64(std::as_bytes(std::span(bytes.data(), bytes.size())));
}

constexpr const char* kVllm = R"(
rows = torch.load(f"{FOLDER}/rows.pt", weights_only=True)  # header and slots
with torch.no_grad():  # the prompt whole: a completion gets no template
    prompt = torch.cat([rows, base.get_input_embeddings()(ids)[0].to(rows.dtype)]).contiguous()
buffer = io.BytesIO()
torch.save(prompt, buffer)
body = {"model": MODEL, "prompt_embeds": base64.b64encode(buffer.getvalue()).decode(), "max_tokens": 32, "temperature": 0}
request = urllib.request.Request("http://localhost:8000/v1/completions", json.dumps(body).encode(),
                                 {"Content-Type": "application/json"})
print(answer_of(json.load(urllib.request.urlopen(request))["choices"][0]["text"]))
)";

/// The chat request leaves the header to the server's template, which need not be the one the memory has.
std::string vllm_note(const std::string& header_ids) {
  return fmt::format(
      R"(The server: `vllm serve BASE --enable-prompt-embeds`. The script sends header, slots and question as they were
trained; of the base it needs the embedding table alone.

request_chat.json is the short way and **deviates**: it carries the slots alone, and the server renders its own chat template
around them. The slots then stand behind what that template writes (SmolLM2's puts a system turn first), not behind
`header_token_ids` {} as in training, and at other positions. Put the question in place of YOUR QUESTION; where the
answer matters, compare with the script:

```bash
curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -d @request_chat.json
```)",
      header_ids);
}

CardUse vllm_use(const ExportRequest& request, const Json& info) {
  return {.files = "slots.pt (slots), rows.pt (header and slots), request_chat.json",
          .standard = "import base64\nimport io\nimport json\nimport urllib.request\n",
          .python = fmt::format("\nMODEL = {}  # as the server names it{}",
                                python_text(base_of(request, info)), kVllm),
          .note = vllm_note(json_or<Json>(info, "header_token_ids", Json::array(), request.in).dump())};
}

void write_vllm(const ExportRequest& request) {
  const MemoryArtifact memory = load_embeds(request.in, "vllm-embeds");
  const Json info = memory.info;
  const Tensor rows_ND = memory.embeds_ND.to(embeds_type(request.dtype, memory)).contiguous();
  const int64_t header = memory.header(), slots = memory.rows() - header;
  const std::string slots_file = pickled(rows_ND.narrow(0, header, slots));
  write_file_atomic((fs::path(request.out) / "rows.pt").string(), pickled(rows_ND));
  write_file_atomic((fs::path(request.out) / "slots.pt").string(), slots_file);
  const OrderedJson soft = {{"type", "prompt_embeds"}, {"data", base64_of(slots_file)}};
  // The server's template closes the turn.
  const PromptConfig prompt = recorded_prompt(info, request.in);
  const std::string question = prompt.question_prefix + "YOUR QUESTION" + prompt.answer_prompt;
  const OrderedJson text = {{"type", "text"}, {"text", question}};
  const OrderedJson body = {{"model", base_of(request, info)},
                            {"messages", {{{"role", "user"}, {"content", {soft, text}}}}},
                            {"max_tokens", 32},
                            {"temperature", 0}};
  write_file_atomic((fs::path(request.out) / "request_chat.json").string(), body.dump() + "\n");
  write_file_atomic((fs::path(request.out) / "README.md").string(),
                    model_card(memory, request, "vllm-embeds", vllm_use(request, info)));
}

/// The shortest decimals that give these float32 numbers again.
std::string json_rows(const Tensor& rows_ND) {
  const Tensor wide = rows_ND.to(at::kFloat).contiguous();
  std::string text = "[";
  for (int64_t row = 0; row < wide.size(0); ++row) {
    text += row ? ",\n[" : "[";
    const float* values = wide.const_data_ptr<float>() + row * wide.size(1);
    for (int64_t i = 0; i < wide.size(1); ++i) text += fmt::format("{}{}", i ? "," : "", values[i]);
    text += "]";
  }
  return text + "]";
}

constexpr const char* kSglang = R"(
with open(f"{FOLDER}/request.json", encoding="utf-8") as file:
    body = json.load(file)  # header and slots
body["input_embeds"] += base.get_input_embeddings()(ids)[0].tolist()  # the question, embedded by the client
request = urllib.request.Request("http://localhost:30000/generate", json.dumps(body).encode(),
                                 {"Content-Type": "application/json"})
print(answer_of(json.load(urllib.request.urlopen(request))["text"]))
)";

void write_sglang(const ExportRequest& request) {
  const MemoryArtifact memory = load_embeds(request.in, "sglang-embeds");
  const Tensor rows_ND = memory.embeds_ND.to(embeds_type(request.dtype, memory));
  const std::string rows = json_rows(rows_ND);
  if (rows.size() > (size_t{4} << 20))
    log_warning(fmt::format("sglang-embeds: every request carries {} of JSON", human_bytes(rows.size())));
  write_file_atomic((fs::path(request.out) / "request.json").string(),
                    "{\"input_embeds\": " + rows +
                        ",\n\"sampling_params\": {\"temperature\": 0, \"max_new_tokens\": 32}}\n");
  write_file_atomic(
      (fs::path(request.out) / "README.md").string(),
      model_card(
          memory, request, "sglang-embeds",
          {.files = "request.json",
           .standard = "import json\nimport urllib.request\n",
           .python = kSglang,
           .note = "The server: `python -m sglang.launch_server --model-path BASE "
                   "--disable-radix-cache`. Of the base the script needs the embedding table alone."}));
}

CTXC_REGISTER_EXPORTER(vllm_embeds, "vllm-embeds", true, write_vllm,
                       "a memory (kind embeds) as prompt_embeds of vLLM requests");
CTXC_REGISTER_EXPORTER(sglang_embeds, "sglang-embeds", true, write_sglang,
                       "a memory (kind embeds) as input_embeds of SGLang requests");

}  // namespace
}  // namespace ctxc
