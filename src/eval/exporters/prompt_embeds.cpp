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

constexpr const char* kVllm = R"(bash
vllm serve BASE --enable-prompt-embeds
# chat: put your question into request_chat.json (the text part) and send it
curl localhost:8000/v1/chat/completions -H 'Content-Type: application/json' -d @request_chat.json
# completions: prompt_embeds = base64(torch.save(cat(rows.pt, embeddings of the question))))";

void write_vllm(const ExportRequest& request) {
  const MemoryArtifact memory = load_embeds(request.in, "vllm-embeds");
  const Json info = memory.info;
  const Tensor rows_ND = memory.embeds_ND.to(embeds_type(request.dtype, memory)).contiguous();
  const int64_t header = memory.header(), slots = memory.rows() - header;
  const std::string slots_file = pickled(rows_ND.narrow(0, header, slots));
  write_file_atomic((fs::path(request.out) / "rows.pt").string(), pickled(rows_ND));
  write_file_atomic((fs::path(request.out) / "slots.pt").string(), slots_file);
  const OrderedJson soft = {{"type", "prompt_embeds"}, {"data", base64_of(slots_file)}};
  const std::string question = json_or<std::string>(info, "resume_text", "", request.in) + "YOUR QUESTION";
  const OrderedJson text = {{"type", "text"}, {"text", question}};
  const OrderedJson body = {{"model", base_of(request, info)},
                            {"messages", {{{"role", "user"}, {"content", {soft, text}}}}},
                            {"max_tokens", 64},
                            {"temperature", 0}};
  write_file_atomic((fs::path(request.out) / "request_chat.json").string(), body.dump() + "\n");
  write_file_atomic((fs::path(request.out) / "README.md").string(),
                    model_card(memory, "vllm-embeds",
                               "slots.pt (slots), rows.pt (header and slots), request_chat.json", kVllm));
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

constexpr const char* kSglang = R"(python
# the server: python -m sglang.launch_server --model-path BASE --disable-radix-cache
request = json.load(open("request.json"))
request["input_embeds"] += embedding_table[question_ids].tolist()    # the question, embedded by the client
requests.post("http://localhost:30000/generate", json=request).json())";

void write_sglang(const ExportRequest& request) {
  const MemoryArtifact memory = load_embeds(request.in, "sglang-embeds");
  const Tensor rows_ND = memory.embeds_ND.to(embeds_type(request.dtype, memory));
  const std::string rows = json_rows(rows_ND);
  if (rows.size() > (size_t{4} << 20))
    log_warning(fmt::format("sglang-embeds: every request carries {} of JSON", human_bytes(rows.size())));
  write_file_atomic((fs::path(request.out) / "request.json").string(),
                    "{\"input_embeds\": " + rows +
                        ",\n\"sampling_params\": {\"temperature\": 0, \"max_new_tokens\": 64}}\n");
  write_file_atomic((fs::path(request.out) / "README.md").string(),
                    model_card(memory, "sglang-embeds", "request.json", kSglang));
}

CTXC_REGISTER_EXPORTER(vllm_embeds, "vllm-embeds", true, write_vllm,
                       "a memory (kind embeds) as prompt_embeds of vLLM requests");
CTXC_REGISTER_EXPORTER(sglang_embeds, "sglang-embeds", true, write_sglang,
                       "a memory (kind embeds) as input_embeds of SGLang requests");

}  // namespace
}  // namespace ctxc
