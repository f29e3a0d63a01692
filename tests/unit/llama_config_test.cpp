#include "model/llama_config.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/file.h"
#include "gguf_writer.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::GgufWriter;
using testing::TempDir;

Json minimal() {
  return {{"model_type", "llama"},  {"vocab_size", 256},        {"hidden_size", 64},
          {"num_hidden_layers", 4}, {"num_attention_heads", 4}, {"intermediate_size", 128}};
}

TEST(LlamaConfig, DefaultsAreThoseOfTransformers) {
  const LlamaConfig config = LlamaConfig::from_json(minimal(), "c");
  EXPECT_EQ(config.num_kv_heads, 4);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.max_position, 2048);
  EXPECT_EQ(config.rms_norm_eps, 1e-6);
  EXPECT_EQ(config.rope_theta, 10000);
  EXPECT_FALSE(config.rope_scaling.has_value());
  EXPECT_FALSE(config.tie_word_embeddings);
  EXPECT_TRUE(config.eos.empty());
  EXPECT_FALSE(config.bos.has_value());
}

TEST(LlamaConfig, RopeKeysOfBothTransformersGenerations) {
  const Json llama3 = {{"rope_type", "llama3"},
                       {"factor", 32.0},
                       {"low_freq_factor", 1.0},
                       {"high_freq_factor", 4.0},
                       {"original_max_position_embeddings", 8192}};
  Json four = minimal(), five = minimal();
  four["rope_theta"] = 500000.0;
  four["rope_scaling"] = llama3;
  five["rope_parameters"] = llama3;
  five["rope_parameters"]["rope_theta"] = 500000.0;
  for (const Json& json : {four, five}) {
    const LlamaConfig config = LlamaConfig::from_json(json, "c");
    EXPECT_EQ(config.rope_theta, 500000);
    ASSERT_TRUE(config.rope_scaling.has_value());
    EXPECT_EQ(config.rope_scaling->factor, 32);
    EXPECT_EQ(config.rope_scaling->original_max_position, 8192);
  }
  Json plain = minimal();
  plain["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 7.0}};
  plain["rope_scaling"] = nullptr;
  EXPECT_EQ(LlamaConfig::from_json(plain, "c").rope_theta, 7);
  EXPECT_FALSE(LlamaConfig::from_json(plain, "c").rope_scaling.has_value());
}

TEST(LlamaConfig, TokenIds) {
  Json json = minimal();
  json["eos_token_id"] = {3, 4};
  json["bos_token_id"] = 1;
  json["pad_token_id"] = -1;
  const LlamaConfig config = LlamaConfig::from_json(json, "c");
  EXPECT_EQ(config.eos, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(config.bos, 1);
  EXPECT_EQ(config.pad, std::nullopt);
  json["eos_token_id"] = 5;
  EXPECT_EQ(LlamaConfig::from_json(json, "c").eos, std::vector<int64_t>{5});
}

TEST(LlamaConfig, OneErrorNamesEveryProblem) {
  Json json = minimal();
  json["model_type"] = "qwen2";
  json["hidden_act"] = "gelu";
  json["attention_bias"] = true;
  json["mlp_bias"] = true;
  json["num_hidden_layers"] = "four";
  json["num_key_value_heads"] = 3;
  json["head_dim"] = 15;
  json["rms_norm_eps"] = 0;
  json["eos_token_id"] = {1, "x"};
  json["rope_scaling"] = {{"type", "yarn"}, {"factor", 2}};
  json["quantization_config"] = {{"bits", 4}};
  json.erase("vocab_size");
  for (const char* part :
       {"c.json: ", "model_type is not supported (found 'qwen2', expected 'llama')",
        "hidden_act is not supported (found 'gelu'", "attention_bias is not supported",
        "mlp_bias is not supported", "'num_hidden_layers' has a wrong value (found \"four\"",
        "4 query heads cannot share 3 key/value heads", "head width must be even for RoPE (found 15)",
        "'rms_norm_eps' is out of range", "'eos_token_id' holds something else",
        "rope_scaling: RoPE type is not supported (found 'yarn'", "quantization_config is not supported",
        "key 'vocab_size' is missing"}) {
    const std::string hint =
        expect_error(ErrorKind::kInput, part, [&] { LlamaConfig::from_json(json, "c.json"); });
    EXPECT_NE(hint.find("Llama-3"), std::string::npos);
  }
  for (const int64_t bad : {int64_t{0}, int64_t{-4}, int64_t{1} << 40}) {
    Json wrong = minimal();
    wrong["num_attention_heads"] = bad;
    expect_error(ErrorKind::kInput, "'num_attention_heads' is out of range",
                 [&] { LlamaConfig::from_json(wrong, "c"); });
  }
  Json odd = minimal();
  odd["num_attention_heads"] = 5;
  expect_error(ErrorKind::kInput, "hidden_size 64 is not a multiple of 5 heads",
               [&] { LlamaConfig::from_json(odd, "c"); });
  Json rope = minimal();
  rope["rope_scaling"] = "llama3";
  expect_error(ErrorKind::kInput, "'rope_scaling' is not an object",
               [&] { LlamaConfig::from_json(rope, "c"); });
  expect_error(ErrorKind::kInput, "not an object", [] { LlamaConfig::from_json(Json::array(), "c"); });
}

TEST(LlamaConfig, ItsJsonReadsBack) {
  LlamaConfig config = LlamaConfig::from_json(minimal(), "c");
  config.rope_scaling = RopeScaling{.factor = 32};
  config.tie_word_embeddings = true;
  config.eos = {7, 8};
  config.bos = 6;
  const OrderedJson json = config.to_json();
  const LlamaConfig again = LlamaConfig::from_json(Json::parse(json.dump()), "c");
  EXPECT_EQ(again.to_json(), json);
  EXPECT_EQ(again.rope_scaling->factor, 32);
  EXPECT_EQ(again.eos, config.eos);
}

TEST(LlamaConfig, CountsParameters) {
  LlamaConfig config = LlamaConfig::from_json(minimal(), "c");
  const int64_t layer = 4 * 64 * 64 + 3 * 64 * 128 + 2 * 64;
  EXPECT_EQ(config.parameter_count(), 2 * 256 * 64 + 4 * layer + 64);
  config.tie_word_embeddings = true;
  EXPECT_EQ(config.parameter_count(), 256 * 64 + 4 * layer + 64);
}

TEST(LlamaConfig, LoadsFoldersAndFiles) {
  TempDir dir;
  write_file_atomic(dir / "config.json", minimal().dump());
  EXPECT_EQ(LlamaConfig::load(dir.str()).hidden_size, 64);
  EXPECT_EQ(LlamaConfig::load(dir / "config.json").hidden_size, 64);
  expect_error(ErrorKind::kInput, "nowhere", [&] { LlamaConfig::load(dir / "nowhere"); });
}

GgufWriter gguf() {
  GgufWriter writer;
  writer.string("general.architecture", "llama")
      .integer("llama.block_count", 2)
      .integer("llama.embedding_length", 8);
  writer.integer("llama.feed_forward_length", 12).integer("llama.attention.head_count", 2);
  writer.integer("llama.attention.head_count_kv", 1).integer("llama.context_length", 99);
  writer.number("llama.attention.layer_norm_rms_epsilon", 1e-5f).number("llama.rope.freq_base", 500000.0f);
  writer.integer("tokenizer.ggml.bos_token_id", 1).integer("tokenizer.ggml.eos_token_id", 2);
  writer.tensor("token_embd.weight", {10, 8}, 0, std::string(320, '\0'));
  return writer;
}

TEST(LlamaConfig, ReadsGgufMetadata) {
  TempDir dir;
  const LlamaConfig config =
      LlamaConfig::load(gguf().integer("tokenizer.ggml.eot_token_id", 3).save(dir / "m.gguf"));
  EXPECT_EQ(config.vocab_size, 10);
  EXPECT_EQ(config.num_layers, 2);
  EXPECT_EQ(config.hidden_size, 8);
  EXPECT_EQ(config.intermediate_size, 12);
  EXPECT_EQ(config.num_heads, 2);
  EXPECT_EQ(config.num_kv_heads, 1);
  EXPECT_EQ(config.head_dim, 4);
  EXPECT_EQ(config.max_position, 99);
  EXPECT_FLOAT_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_EQ(config.rope_theta, 500000);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_EQ(config.bos, 1);
  EXPECT_EQ(config.eos, (std::vector<int64_t>{2, 3}));
  const std::string untied =
      gguf().tensor("output.weight", {10, 8}, 0, std::string(320, '\0')).save(dir / "u.gguf");
  EXPECT_FALSE(LlamaConfig::load(untied).tie_word_embeddings);
}

TEST(LlamaConfig, RopeFactorsOfGgufBecomeTheirScaling) {
  TempDir dir;
  const auto factors = [](double base, double factor, double original) {
    std::string bytes;
    for (int i = 0; i < 32; ++i) {
      const double wavelength = 2 * M_PI * std::pow(base, i / 32.0), smooth = (original / wavelength - 1) / 3;
      const double value = wavelength < original / 4 ? 1
                           : wavelength > original   ? factor
                                                     : 1 / ((1 - smooth) / factor + smooth);
      bytes += GgufWriter::raw(static_cast<float>(value));
    }
    return bytes;
  };
  const auto with = [&](const std::string& bytes) {
    GgufWriter writer = gguf();
    writer.integer("llama.attention.key_length", 64).integer("llama.attention.value_length", 64);
    return writer.tensor("rope_freqs.weight", {bytes.size() / 4}, 0, bytes).save(dir / "r.gguf");
  };
  const LlamaConfig config = LlamaConfig::load(with(factors(500000, 32, 8192)));
  ASSERT_TRUE(config.rope_scaling.has_value());
  EXPECT_EQ(config.rope_scaling->factor, 32);
  EXPECT_EQ(config.rope_scaling->original_max_position, 8192);
  expect_error(ErrorKind::kInput, "not a RoPE scaling of Llama 3",
               [&] { LlamaConfig::load(with(factors(500000, 32, 4096))); });
  expect_error(ErrorKind::kInput, "wrong size (found 4, expected 32)",
               [&] { LlamaConfig::load(with(std::string(16, '\0'))); });
}

TEST(LlamaConfig, OtherGgufModelsAreRefused) {
  TempDir dir;
  const auto refuses = [&](GgufWriter writer, const std::string& part) {
    const std::string path = writer.save(dir / "m.gguf");
    expect_error(ErrorKind::kInput, part, [&] { LlamaConfig::load(path); });
  };
  refuses(GgufWriter().string("general.architecture", "qwen2"),
          "architecture is not supported (found 'qwen2'");
  refuses(GgufWriter(), "key 'general.architecture' is missing");
  refuses(gguf().integer("llama.expert_count", 8), "mixtures of experts");
  refuses(gguf().string("llama.rope.scaling.type", "yarn"), "RoPE scaling is not supported (found 'yarn'");
  refuses(gguf().integer("llama.rope.dimension_count", 2), "RoPE over a part of the head");
  refuses(gguf().integer("llama.attention.value_length", 8), "keys and values of different width");
  GgufWriter empty;
  empty.string("general.architecture", "llama").number("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  refuses(
      empty,
      "key 'llama.block_count' is missing (expected an integer); key 'llama.embedding_length' is missing");
  refuses(empty, "tensor 'token_embd.weight' is missing");
}

TEST(LlamaConfig, SmolLm2) {
  const auto folder = testing::root() / ".deps/models";
  if (!std::filesystem::is_directory(folder))
    GTEST_SKIP() << ".deps/models is absent: scripts/setup.sh places it";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().filename().string().find("SmolLM2-135M") == std::string::npos) continue;
    const LlamaConfig config = LlamaConfig::load(entry.path());
    EXPECT_EQ(config.parameter_count(), 134515008);
    EXPECT_EQ(config.rope_theta, 100000);
    EXPECT_EQ(config.bos, 1);
    EXPECT_EQ(config.eos, std::vector<int64_t>{2});
  }
}

}  // namespace
}  // namespace ctxc
