// Exports appear whole or not at all; files of every kind are summarised; memories go out and come back
// equal.
#include "eval/exporter.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/file.h"
#include "eval/file_summary.h"
#include "eval/memory_export.h"
#include "model/lora_artifact.h"
#include "model/weights.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;

/// Two targets of this test: one that writes a folder, one that fails half-way.
void write_good(const ExportRequest& request) {
  write_file_atomic(request.out + "/a.txt", "new");
}
void write_bad(const ExportRequest& request) {
  write_file_atomic(request.out + "/a.txt", "half");
  throw Error(ErrorKind::kDisk, "disk full");
}
CTXC_REGISTER_EXPORTER(good, "test-good", true, write_good, "writes");
CTXC_REGISTER_EXPORTER(bad, "test-bad", true, write_bad, "fails");

ExportRequest request(const fs::path& in, const fs::path& out) {
  ExportRequest request;
  request.in = in.string();
  request.out = out.string();
  return request;
}

size_t entries(const fs::path& folder) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(Export, LeavesNothingBehindWhenItFails) {
  const testing::TempDir dir;
  fs::create_directories(dir / "in");
  expect_error(ErrorKind::kDisk, "disk full",
               [&] { run_export("test-bad", request(dir / "in", dir / "out"), false); });
  EXPECT_EQ(entries(dir.str()), 1u);
}

TEST(Export, KeepsWhatIsThereUnlessTold) {
  const testing::TempDir dir;
  fs::create_directories(dir / "in");
  fs::create_directories(dir / "out");
  run_export("test-good", request(dir / "in", dir / "out"), false);  // an empty folder is no obstacle
  std::ofstream(dir / "out" / "mine.txt") << "old";
  expect_error(ErrorKind::kBusy, "not empty",
               [&] { run_export("test-good", request(dir / "in", dir / "out"), false); });
  expect_error(ErrorKind::kDisk, "disk full",
               [&] { run_export("test-bad", request(dir / "in", dir / "out"), true); });
  EXPECT_TRUE(fs::exists(dir / "out" / "mine.txt"));
  run_export("test-good", request(dir / "in", (dir / "out").string() + "/"), true);
  EXPECT_EQ(entries(dir / "out"), 1u);
  EXPECT_EQ(entries(dir.str()), 2u);
}

TEST(Export, RefusesBadRequests) {
  const testing::TempDir dir;
  expect_error(ErrorKind::kUsage, "export target",
               [&] { run_export("peeft", request(dir.str(), dir / "out"), false); });
  expect_error(ErrorKind::kInput, "no such file",
               [&] { run_export("test-good", request(dir / "x", dir / "out"), false); });
  expect_error(ErrorKind::kUsage, "are the same",
               [&] { run_export("test-good", request(dir.str(), dir.str()), true); });
}

/// A memory of three rows, two of them header.
MemoryArtifact small_memory() {
  MemoryArtifact memory;
  memory.kind = "embeds";
  memory.embeds_ND = at::arange(12, at::kFloat).view({3, 4});
  memory.info = OrderedJson::parse(
      R"({"format_version": 1, "kind": "embeds", "method": "test", "n_slots": 1, "n_header": 2,
    "header_token_ids": [0, 5], "model": {"name_or_path": "base", "num_hidden_layers": 2, "num_key_value_heads": 1}})");
  return memory;
}

TEST(Export, PeftFolderHoldsTheRows) {
  const testing::TempDir dir;
  save_memory((dir / "m.safetensors").string(), small_memory());
  run_export("peft-prompt", request(dir / "m.safetensors", dir / "peft"), false);
  const Json config = read_json_file((dir / "peft/adapter_config.json").string());
  EXPECT_EQ(config.at("peft_type"), "PROMPT_TUNING");
  EXPECT_EQ(config.at("num_virtual_tokens"), 3);
  EXPECT_EQ(config.at("token_dim"), 4);
  const auto tensors = load_tensors((dir / "peft/adapter_model.safetensors").string());
  EXPECT_TRUE(at::equal(tensors.at("prompt_embeddings"), small_memory().embeds_ND));
}

TEST(Export, RawNumbersAreLittleEndianFloats) {
  const testing::TempDir dir;
  save_memory((dir / "m.safetensors").string(), small_memory());
  run_export("raw", request(dir / "m.safetensors", dir / "raw"), false);
  const std::string bytes = read_file((dir / "raw/embeds.bin").string());
  ASSERT_EQ(bytes.size(), 48u);
  float value = 0;
  std::memcpy(&value, bytes.data() + 4 * 7, 4);
  EXPECT_EQ(value, 7.0f);
  EXPECT_EQ(read_json_file((dir / "raw/embeds.json").string()).at("shape"), Json({3, 4}));
  EXPECT_NE(read_file((dir / "raw/README.md").string()).find("inputs_embeds"), std::string::npos);
}

TEST(Export, MemoriesOnly) {
  const testing::TempDir dir;
  expect_error(ErrorKind::kInput, "takes a memory artifact",
               [&] { run_export("raw", request(dir.str(), dir / "out"), false); });
  MemoryArtifact memory = small_memory();
  memory.kind = "kv";
  memory.k_LGNE = memory.v_LGNE = at::zeros({2, 1, 3, 4});
  memory.info["kind"] = "kv";
  save_memory((dir / "kv.safetensors").string(), memory);
  expect_error(ErrorKind::kUsage, "kind embeds",
               [&] { run_export("peft-prompt", request(dir / "kv.safetensors", dir / "out"), false); });
}

TEST(FileSummary, MemoriesAndPlainTensors) {
  const testing::TempDir dir;
  save_memory((dir / "m.safetensors").string(), small_memory());
  const OrderedJson memory = summarize_file((dir / "m.safetensors").string());
  EXPECT_EQ(memory["kind"], "memory artifact");
  EXPECT_EQ(memory["record"]["n_slots"], 1);
  EXPECT_EQ(memory["parameters"], 12);
  save_tensors((dir / "t.safetensors").string(),
               {{"a.0.w", at::zeros({2, 2})}, {"a.1.w", at::zeros({2, 2})}});
  const OrderedJson plain = summarize_file((dir / "t.safetensors").string());
  EXPECT_EQ(plain["kind"], "safetensors");
  EXPECT_NE(render_summary(plain, false).find("a.*.w"), std::string::npos);
  EXPECT_NE(render_summary(plain, true).find("a.1.w"), std::string::npos);
}

TEST(FileSummary, AdaptersThatACompileKept) {
  const testing::TempDir dir;
  LoraArtifact lora;
  lora.config = {.rank = 2, .alpha = 4, .targets = {"v_proj"}};
  lora.tensors["layers.0.v_proj.lora_A"] = at::zeros({2, 8});
  lora.tensors["layers.0.v_proj.lora_B"] = at::zeros({4, 2});
  lora.buffers_KD = at::zeros({3, 8});
  lora.info["model"] = {{"name_or_path", "base"},
                        {"num_hidden_layers", 1},
                        {"num_key_value_heads", 1},
                        {"head_dim", 4},
                        {"hidden_size", 8}};
  const std::string path = (dir / "lora.safetensors").string();
  save_lora(path, lora);
  const OrderedJson summary = summarize_file(path);
  EXPECT_EQ(summary["kind"], "adapters");
  EXPECT_EQ(summary["adapters"], OrderedJson({{"base", "base"},
                                              {"rank", 2},
                                              {"alpha", 4.0},
                                              {"targets", {"v_proj"}},
                                              {"parameters", 24},
                                              {"buffers", 3}}));
}

TEST(FileSummary, SaysWhatIsWrong) {
  const testing::TempDir dir;
  expect_error(ErrorKind::kInput, "no such file", [&] { summarize_file((dir / "x").string()); });
  expect_error(ErrorKind::kInput, "nothing that ctxc knows", [&] { summarize_file(dir.str()); });
  std::ofstream(dir / "state.json") << "[]";
  expect_error(ErrorKind::kInput, "not the state", [&] { summarize_file(dir.str()); });
  std::ofstream(dir / "cut.safetensors") << "12345";
  expect_error(ErrorKind::kInput, "cut.safetensors",
               [&] { summarize_file((dir / "cut.safetensors").string()); });
}

}  // namespace
}  // namespace ctxc
