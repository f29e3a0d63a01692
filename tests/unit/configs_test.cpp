// Every file of configs/ resolves; those that train on text are planned at the size of their base, of which
// only the numbers are here: the embedded tokenizer and a generated text stand in for the real ones.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <regex>

#include "core/file.h"
#include "testing.h"
#include "throws.h"
#include "train/dry_run.h"
#include "train/run_config.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

constexpr double kGpuBytes = 80e9;

std::vector<fs::path> configurations() {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(testing::root() / "configs"))
    if (entry.path().extension() == ".yaml") files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

LlamaConfig base_of(const std::string& path) {
  LlamaConfig llama;
  llama.num_kv_heads = 8;
  llama.vocab_size = 128256;
  llama.max_position = 131072;
  llama.rope_theta = 500000;
  if (path.find("Llama-3.1-8B") != std::string::npos) {
    llama.hidden_size = 4096, llama.num_layers = 32, llama.num_heads = 32, llama.head_dim = 128;
    llama.intermediate_size = 14336;
  } else if (path.find("Llama-3.2-1B") != std::string::npos) {
    llama.hidden_size = 2048, llama.num_layers = 16, llama.num_heads = 32, llama.head_dim = 64;
    llama.intermediate_size = 8192, llama.tie_word_embeddings = true;
  } else if (path.find("SmolLM2-135M") != std::string::npos) {
    llama.hidden_size = 576, llama.num_layers = 30, llama.num_heads = 9, llama.num_kv_heads = 3,
    llama.head_dim = 64;
    llama.intermediate_size = 1536, llama.vocab_size = 49152, llama.tie_word_embeddings = true;
    llama.max_position = 8192, llama.rope_theta = 100000;
  }
  return llama;
}

TEST(Configs, EveryOneResolvesIntoAFolderOfItsOwn) {
  std::map<std::string, fs::path> taken;
  for (const fs::path& file : configurations()) {
    const std::string folder = load_run_config(file.string(), {}).directory();
    const auto [other, fresh] = taken.emplace(folder, file);
    EXPECT_TRUE(fresh) << file << " and " << other->second << " both run in " << folder;
  }
}

TEST(Configs, ThoseOfTextFitTheirBaseAndAGpu) {
  const testing::TempDir temp;
  const std::string text = (temp / "text.txt").string();
  std::string lines;
  for (int i = 0; i < 4000; ++i)
    lines += "The river runs under the old bridge and nobody counts the boats.\n";
  write_file_atomic(text, lines);
  int planned = 0;
  for (const fs::path& file : configurations()) {
    const std::string stem = file.stem().string();
    if (stem.find("_text") == std::string::npos) continue;
    SCOPED_TRACE(stem);
    const RunConfig plain = load_run_config(file.string(), {});
    const LlamaConfig llama = base_of(plain.backbone.path);
    ASSERT_GT(llama.hidden_size, 0) << plain.backbone.path;
    write_file_atomic((temp / "config.json").string(), llama.to_json().dump());
    const RunConfig config = load_run_config(
        file.string(), {"backbone.path=" + temp.str(),
                        "backbone.tokenizer=" + (testing::root() / "models/tiny-facts").string(),
                        "data.train=[{path: " + text + ", format: text}]", "data.valid=[]"});
    const Json plan = dry_run(config).json["plan"];
    const int64_t ratio = std::stoll(config.compressor.find("ratio")->scalar());
    std::smatch match;
    if (std::regex_search(stem, match, std::regex("_(\\d+)x$")))
      EXPECT_EQ(ratio, std::stoll(match[1].str()));
    else
      EXPECT_EQ(ratio, 4);
    EXPECT_EQ(plan["backbone_parameters"].get<int64_t>(), llama.parameter_count());
    const double trained = plan["trainable_parameters"].get<double>();
    EXPECT_GT(trained, 1e6);
    // The published checkpoints' counts.
    if (stem.starts_with("comprexit_llama3.1-8b")) {
      EXPECT_EQ(trained, 70'308'898);
    }
    if (stem.starts_with("comprexit_llama3.2-1b")) {
      EXPECT_EQ(trained, 18'377'746);
    }
    EXPECT_LT(trained / static_cast<double>(llama.parameter_count()), 0.12);
    EXPECT_LE(plan["slots"].get<double>(), static_cast<double>(config.data.rules.context_tokens / ratio));
    EXPECT_LT(plan["bytes"]["all"].get<double>(), kGpuBytes);
    EXPECT_GT(plan["flop_per_step"].get<double>(), 1e11);
    fmt::print("{:40} {:>11.0f} trained, {:.1f} GB, {:.3g} FLOP a step\n", stem, trained,
               plan["bytes"]["all"].get<double>() / 1e9, plan["flop_per_step"].get<double>());
    ++planned;
  }
  EXPECT_GE(planned, 36);
}

}  // namespace
}  // namespace ctxc
