// Memories in other programs' formats and back: every writer has a reader here, bit for bit at an equal type.
#include <cstring>
#include <filesystem>

#include "core/base64.h"
#include "core/file.h"
#include "core/gguf.h"
#include "core/safetensors.h"
#include "eval/memory_export.h"
#include "exported_memory.h"
#include "model/layers.h"
#include "model/lora_artifact.h"
#include "model/memory_edit.h"
#include "model/weights.h"
#include "throws.h"
#include "tiny_llama.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::kv_artifact;
using testing::random_tensor;
namespace fs = std::filesystem;
using MemoryExport = testing::ExportedMemory;

/// Two layers of kv_artifact's base (4 query heads of 4), rank 3, on q, v and down.
LoraArtifact lora_artifact() {
  LoraArtifact lora;
  lora.config = {.rank = 3, .alpha = 6, .targets = {"q_proj", "v_proj", "down_proj"}};
  uint64_t index = 1;
  for (int64_t layer = 0; layer < 2; ++layer)
    for (const auto& [name, out, in] :
         {std::tuple("q_proj", 16, 24), {"v_proj", 12, 24}, {"down_proj", 24, 40}}) {
      lora.tensors[fmt::format("layers.{}.{}.lora_A", layer, name)] = random_tensor({3, in}, index++);
      lora.tensors[fmt::format("layers.{}.{}.lora_B", layer, name)] = random_tensor({out, 3}, index++);
    }
  lora.buffers_KD = random_tensor({5, 24}, 90);
  lora.info["model"] = kv_artifact().info["model"];
  return lora;
}

TEST_F(MemoryExport, AdaptersOfPeftAndLlamaCpp) {
  const LoraArtifact lora = lora_artifact();
  ExportRequest request = this->request("peft-lora");
  request.in = (folder_ / "lora.safetensors").string();
  save_lora(request.in, lora);
  run_export("peft-lora", request, false);
  const Json config = read_json_file((folder_ / "peft-lora/adapter_config.json").string());
  EXPECT_EQ(config.at("peft_type"), "LORA");
  EXPECT_EQ(config.at("r"), 3);
  EXPECT_EQ(config.at("lora_alpha"), 6.0);
  const auto tensors = load_tensors((folder_ / "peft-lora/adapter_model.safetensors").string());
  ASSERT_EQ(tensors.size(), 12u);
  EXPECT_TRUE(at::equal(tensors.at("base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"),
                        lora.tensors.at("layers.1.q_proj.lora_B")));
  EXPECT_TRUE(at::equal(tensors.at("base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"),
                        lora.tensors.at("layers.0.down_proj.lora_A")));
  EXPECT_TRUE(at::equal(load_tensors((folder_ / "peft-lora/buffers.safetensors").string()).at("buffers"),
                        lora.buffers_KD));

  const std::string card = read_file((folder_ / "peft-lora/README.md").string());
  for (const char* part : {"rank", "q_proj, v_proj, down_proj", "PeftModel", "HEADER = []  # not recorded"})
    EXPECT_NE(card.find(part), std::string::npos) << part;

  request.out = (folder_ / "lora.gguf").string();
  run_export("llamacpp-lora", request, false);
  const GgufFile file(request.out);
  EXPECT_EQ(file.string("general.type"), "adapter");
  EXPECT_EQ(file.string("adapter.type"), "lora");
  EXPECT_EQ(file.number("adapter.lora.alpha"), 6.0);
  ASSERT_EQ(file.tensors().size(), 12u);
  const auto values = [&](const std::string& name) {
    const GgufTensor& tensor = file.tensors().at(name);
    Tensor back = at::empty(tensor.shape, at::kFloat);
    dequantize(tensor, {back.mutable_data_ptr<float>(), static_cast<size_t>(back.numel())});
    return back;
  };
  EXPECT_TRUE(at::equal(values("blk.1.attn_v.weight.lora_b"), lora.tensors.at("layers.1.v_proj.lora_B")));
  EXPECT_TRUE(
      at::equal(values("blk.0.ffn_down.weight.lora_a"), lora.tensors.at("layers.0.down_proj.lora_A")));
  // Rows of a head of four: 0, 2, 1, 3.
  const Tensor order = at::tensor({0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15}, at::kLong);
  EXPECT_TRUE(at::equal(values("blk.1.attn_q.weight.lora_b"),
                        lora.tensors.at("layers.1.q_proj.lora_B").index_select(0, order)));
}

TEST_F(MemoryExport, WrongAdaptersAreRefused) {
  const std::string path = (folder_ / "lora.safetensors").string();
  const auto refused = [&](const std::string& part, const std::function<void(LoraArtifact&)>& spoil) {
    LoraArtifact lora = lora_artifact();
    spoil(lora);
    save_lora(path, lora);
    expect_error(ErrorKind::kInput, part, [&] { load_lora(path); });
  };
  refused("lacks one of", [](LoraArtifact& lora) { lora.tensors.erase("layers.1.q_proj.lora_A"); });
  refused("does not fit", [](LoraArtifact& lora) { lora.config.rank = 2; });
  refused("does not fit", [](LoraArtifact& lora) {
    lora.tensors["layers.0.v_proj.lora_B"] = random_tensor({8, 3}, 1);
  });
  refused("no adapter is called so", [](LoraArtifact& lora) {
    lora.tensors["layers.0.x_proj.lora_A"] = random_tensor({3, 24}, 1);
  });
  expect_error(ErrorKind::kInput, "holds no adapters", [&] { load_lora(in_); });
}

TEST_F(MemoryExport, PeftPrefixAndCartridge) {
  for (const std::string target : {"peft-prefix", "peft-cartridge"}) {
    write(target, target);
    const Json config = read_json_file((folder_ / target / "adapter_config.json").string());
    EXPECT_EQ(config.at("peft_type"), target == "peft-prefix" ? "PREFIX_TUNING" : "CARTRIDGE");
    EXPECT_EQ(config.at("num_virtual_tokens"), 5);
    EXPECT_EQ(config.at("token_dim"), 12);
    EXPECT_EQ(config.at("num_attention_heads"), 3);
    EXPECT_EQ(config.contains("prefix_projection"), target == "peft-prefix");
    const Tensor rows =
        load_tensors((folder_ / target / "adapter_model.safetensors").string()).at("prompt_embeddings");
    ASSERT_EQ(rows.sizes(), at::IntArrayRef({5, 48}));
    const Tensor back = rows.view({5, 4, 3, 4});
    for (int64_t layer = 0; layer < 2; ++layer) {
      EXPECT_TRUE(at::equal(back.select(1, 2 * layer).transpose(0, 1), memory_.k_LGNE[layer]));
      EXPECT_TRUE(at::equal(back.select(1, 2 * layer + 1).transpose(0, 1), memory_.v_LGNE[layer]));
    }
    const std::string card = read_file((folder_ / target / "README.md").string());
    for (const char* part : {"base", "0.125", "5 (2 header, 3 slots)", "PeftModel", "position 5"})
      EXPECT_NE(card.find(part), std::string::npos) << part;
  }
}

/// The card of a target's folder.
std::string card_of(const fs::path& folder) {
  return read_file((folder / "README.md").string());
}

void expect_parts(const std::string& card, const std::vector<std::string>& parts) {
  for (const std::string& part : parts) EXPECT_NE(card.find(part), std::string::npos) << part << "\n" << card;
}

TEST_F(MemoryExport, CardsPutAQuestionAsRecorded) {
  memory_.info["model"]["name_or_path"] = "models/b.gguf";
  memory_.info["prompt"] = {{"cleanup", "none"},
                            {"head", "chat"},
                            {"question_prefix", "\n\n"},
                            {"answer_prompt", ""},
                            {"turn_close", "<|im_end|>\n<|im_start|>assistant\n"},
                            {"answer_extractor", "whole"}};
  save_memory(in_, memory_);
  for (const char* target : {"hf-cache", "peft-prefix", "peft-cartridge", "raw"}) {
    write(target, target);
    expect_parts(card_of(folder_ / target),
                 {R"(from_pretrained("models", gguf_file="b.gguf", dtype=torch.float32))", "import torch\n",
                  R"(parts = ["\n\n" + question + "<|im_end|>\n<|im_start|>assistant\n"])",
                  R"(`"\n\n" + QUESTION + "<|im_end|>\n<|im_start|>assistant\n"`)",
                  "rows are those of `header_token_ids` [0,5]"});
  }
  EXPECT_EQ(card_of(folder_ / "raw").find("?"), std::string::npos);  // nothing is cleaned
  memory_.info["model"]["name_or_path"] = "models/b";
  memory_.info["prompt"] = {{"cleanup", "mrqa_v1"}, {"head", "bos"}, {"split_question", true}};
  save_memory(in_, memory_);
  write("hf-cache", "hf");
  expect_parts(card_of(folder_ / "hf"),
               {R"(from_pretrained("models/b", dtype=torch.float32))", R"(question += "?")",
                R"(parts = ["Question: " + question, "Answer the question)", "parts tokenised apart"});
}

TEST_F(MemoryExport, CardsOfOlderMemoriesSayWhatIsNotRecorded) {
  memory_.info["prompt"] = {{"head", "chat"}};
  save_memory(in_, memory_);
  write("hf-cache", "hf");
  expect_parts(card_of(folder_ / "hf"), {"**Not recorded**"});
}

TEST_F(MemoryExport, HfCache) {
  write("hf-cache", "hf");
  const auto tensors = load_tensors((folder_ / "hf/cache.safetensors").string());
  EXPECT_EQ(tensors.size(), 4u);
  EXPECT_TRUE(at::equal(tensors.at("key_cache.1").squeeze(0), memory_.k_LGNE[1]));
  EXPECT_TRUE(at::equal(tensors.at("value_cache.0").squeeze(0), memory_.v_LGNE[0]));
  EXPECT_TRUE(fs::exists(folder_ / "hf/load_cache.py"));
}

TEST_F(MemoryExport, OffsetsMoveKeysAndNothingElse) {
  ExportRequest moved = request("moved");
  moved.offset = 7;
  run_export("hf-cache", moved, false);
  const auto tensors = load_tensors((folder_ / "moved/cache.safetensors").string());
  LlamaConfig llama;
  llama.head_dim = 4;
  const Tensor expected =
      shift_keys(memory_.k_LGNE, at::full({5}, 7, at::kLong), rope_inverse_frequencies(llama));
  EXPECT_TRUE(at::equal(tensors.at("key_cache.1").squeeze(0), expected[1]));
  EXPECT_TRUE(at::equal(tensors.at("value_cache.1").squeeze(0), memory_.v_LGNE[1]));
  const SafetensorsFile file((folder_ / "moved/cache.safetensors").string());
  EXPECT_EQ(parse_json(file.metadata().at("ctxc"), "ctxc").at("positions"),
            Json({{"first", 7}, {"count", 5}, {"rotated", true}}));
  expect_parts(card_of(folder_ / "moved"), {"position 12", "7 to 11", "exactly 7 ids", "front_ids"});
  for (const char* target : {"peft-prefix", "peft-cartridge", "raw"}) {
    moved.out = (folder_ / target).string();
    run_export(target, moved, false);
    expect_parts(card_of(folder_ / target), {"position 12", "of exactly 7 "});
    EXPECT_EQ(card_of(folder_ / target).find("```python"), std::string::npos);
  }
  moved.out = (folder_ / "x").string();
  expect_error(ErrorKind::kUsage, "begins at position 0",
               [&] { run_export("llamacpp-state", moved, false); });
  moved.offset = -1;
  expect_error(ErrorKind::kUsage, "--offset: out of range", [&] { run_export("hf-cache", moved, false); });
}

TEST_F(MemoryExport, OptionsOfAnotherTargetAreRefused) {
  const auto refused = [&](const std::string& target, const std::string& part,
                           const std::function<void(ExportRequest&)>& set) {
    ExportRequest asked = request("x");
    set(asked);
    expect_error(ErrorKind::kUsage, part, [&] { run_export(target, asked, false); });
    EXPECT_FALSE(fs::exists(folder_ / "x"));
  };
  for (const char* target :
       {"peft-prompt", "vllm-embeds", "sglang-embeds", "hf", "peft-lora", "llamacpp-lora"})
    refused(target, fmt::format("--offset: the target '{}' does not read it", target),
            [](ExportRequest& r) { r.offset = 3; });
  refused("hf-cache", "--llama-placeholder: the target", [](ExportRequest& r) { r.llama_placeholder = 0; });
  refused("raw", "--llama-state-version: the target", [](ExportRequest& r) { r.llama_state_version = 4; });
  refused("kv", "--llama-state-like: the target", [](ExportRequest& r) { r.llama_state_like = "x"; });
  refused("peft-prefix", "--llama-flash-attention: the target",
          [](ExportRequest& r) { r.llama_flash_attention = "on"; });
}

TEST_F(MemoryExport, RawNumbersOfKeysAndValues) {
  write("raw", "raw");
  const std::string bytes = read_file((folder_ / "raw/v.bin").string());
  ASSERT_EQ(bytes.size(), memory_.v_LGNE.nbytes());
  EXPECT_EQ(std::memcmp(bytes.data(), memory_.v_LGNE.const_data_ptr(), bytes.size()), 0);
  EXPECT_EQ(read_json_file((folder_ / "raw/kv.json").string()).at("shape"), Json({2, 3, 5, 4}));
  expect_parts(card_of(folder_ / "raw"), {"k.bin and v.bin", "DynamicCache"});
}

TEST_F(MemoryExport, StorageOfAKvMemory) {
  ExportRequest asked = request("small.safetensors");
  asked.dtype = "int8";
  run_export("kv", asked, false);
  const MemoryArtifact small = load_memory(asked.out);
  EXPECT_TRUE(small.int8.has_value());
  EXPECT_GT(small.info["storage"]["k_relative_error"].get<double>(), 0);
  asked.out = (folder_ / "h").string();
  expect_error(ErrorKind::kUsage, "floating point", [&] { run_export("hf-cache", asked, false); });
}

TEST_F(MemoryExport, TargetsSayWhichKindTheyTake) {
  for (const char* target : {"peft-prompt", "vllm-embeds", "sglang-embeds"})
    expect_error(ErrorKind::kUsage, "kind embeds (found kv)", [&] { write(target, "x"); });
  MemoryArtifact soft;
  soft.kind = "embeds";
  soft.embeds_ND = random_tensor({3, 24}, 4);
  soft.info = memory_.info;
  soft.info["kind"] = "embeds";
  soft.info["n_slots"] = 1;
  soft.info["positions"]["count"] = 3;
  soft.info["prompt"] = {{"question_prefix", "\n\n"}, {"answer_prompt", " Briefly:"}};
  save_memory(in_, soft);
  for (const char* target : {"peft-prefix", "peft-cartridge", "hf-cache", "llamacpp-state"})
    expect_error(ErrorKind::kUsage, "kind kv (found embeds)", [&] { write(target, "x"); });

  write("sglang-embeds", "sglang");
  const Json request = read_json_file((folder_ / "sglang/request.json").string());
  ASSERT_EQ(request.at("input_embeds").size(), 3u);
  for (int64_t i = 0; i < 24; ++i)
    EXPECT_EQ(request["input_embeds"][2][i].get<float>(), soft.embeds_ND[2][i].item<float>());
  write("vllm-embeds", "vllm");
  const Json chat = read_json_file((folder_ / "vllm/request_chat.json").string());
  const Json content = chat.at("messages")[0].at("content");
  EXPECT_EQ(content[0].at("data"), base64(MappedFile((folder_ / "vllm/slots.pt").string()).bytes()));
  EXPECT_EQ(content[1].at("text"), "\n\nYOUR QUESTION Briefly:");
  expect_parts(card_of(folder_ / "vllm"),
               {"rows.pt", "/v1/completions", "**deviates**", "`header_token_ids` [0,5]"});
  expect_parts(card_of(folder_ / "sglang"), {"get_input_embeddings()(ids)", "--disable-radix-cache"});
  ExportRequest moved = this->request("raw");
  moved.offset = 3;
  expect_error(ErrorKind::kUsage, "have no positions to move", [&] { run_export("raw", moved, false); });
}

TEST(Base64, OfTheStandard) {
  const auto of = [](std::string_view text) {
    return base64(std::as_bytes(std::span(text.data(), text.size())));
  };
  EXPECT_EQ(of(""), "");
  EXPECT_EQ(of("f"), "Zg==");
  EXPECT_EQ(of("fo"), "Zm8=");
  EXPECT_EQ(of("foo"), "Zm9v");
  EXPECT_EQ(of("foobar"), "Zm9vYmFy");
  EXPECT_EQ(of("\xff\xfe\xfd"), "//79");
}

}  // namespace
}  // namespace ctxc
