// Safetensors and GGUF files become the tensors of a Llama.
#include "model/weights.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/file.h"
#include "gguf_writer.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::GgufWriter;
using testing::TempDir;
using Named = std::vector<std::pair<std::string, Tensor>>;

LlamaConfig tiny(bool tied) {
  LlamaConfig config;
  config.vocab_size = 10;
  config.hidden_size = 8;
  config.num_layers = 2;
  config.num_heads = 2;
  config.num_kv_heads = 1;
  config.head_dim = 4;
  config.intermediate_size = 12;
  config.max_position = 64;
  config.tie_word_embeddings = tied;
  return config;
}

/// Distinct values in every element, so that a transposition or an exchanged row is seen.
Named numbered(const LlamaConfig& config, at::ScalarType type = at::kFloat, const std::string& prefix = "") {
  Named tensors;
  double start = 0;
  for (const auto& [name, shape] : llama_tensor_shapes(config)) {
    const Tensor flat = at::arange(c10::multiply_integers(shape), at::kFloat) + start;
    tensors.emplace_back(prefix + name, flat.view(shape).to(type).contiguous());
    start += 1000;
  }
  return tensors;
}

bool lies_in_mapping_of(const void* pointer, const std::string& path) {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    uintptr_t begin = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &begin, &end) == 2 && line.ends_with(path) &&
        reinterpret_cast<uintptr_t>(pointer) >= begin && reinterpret_cast<uintptr_t>(pointer) < end)
      return true;
  }
  return false;
}

TEST(Tensors, EveryDtypeRoundTrips) {
  TempDir dir;
  const std::string path = dir / "t.safetensors";
  Named tensors;
  for (const auto type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort,
                          at::kChar, at::kByte, at::kBool})
    tensors.emplace_back(at::toString(type), at::arange(6).view({2, 3}).to(type));
  tensors.emplace_back("scalar", at::scalar_tensor(2.5));
  tensors.emplace_back("empty", at::empty({0, 3}));
  save_tensors(path, tensors, {{"k", "v"}});
  const auto loaded = load_tensors(path);
  ASSERT_EQ(loaded.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(loaded.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(loaded.at(name).equal(tensor)) << name;
  }
}

TEST(Tensors, StayMappedAndOutliveTheFileObject) {
  TempDir dir;
  const std::string path = dir / "t.safetensors";
  save_tensors(path, {{"a", at::arange(100, at::kBFloat16)}});
  Tensor tensor;
  { tensor = load_tensors(path).at("a"); }
  EXPECT_TRUE(lies_in_mapping_of(tensor.const_data_ptr(), path));
  const void* data = tensor.const_data_ptr();
  EXPECT_EQ(tensor[99].item<float>(), 99);
  tensor.reset();
  EXPECT_FALSE(lies_in_mapping_of(data, path));
}

TEST(Tensors, MisalignedViewsAreCopied) {
  alignas(8) std::array<std::byte, 12> bytes{};
  const float value = 1.5f;
  std::memcpy(bytes.data() + 2, &value, 4);
  const TensorView view{.dtype = DType::kF32, .shape = {1}, .bytes = std::span(bytes).subspan(2, 4)};
  EXPECT_EQ(tensor_from_view(view, nullptr).item<float>(), 1.5f);
}

TEST(Tensors, OnlyContiguousCpuTensorsOfKnownTypesAreStored) {
  expect_error(ErrorKind::kInternal, "not contiguous", [] { view_of(at::zeros({2, 3}).t()); });
  expect_error(ErrorKind::kInternal, "cannot be stored", [] { view_of(at::zeros({2}, at::kComplexFloat)); });
}

TEST(LlamaWeights, LoadInTheirDtypeTiedAndUntied) {
  TempDir dir;
  for (const bool tied : {true, false}) {
    LlamaConfig config = tiny(tied);
    const Named stored = numbered(config, at::kBFloat16);
    save_tensors(dir / "model.safetensors", stored);
    const auto weights = load_llama_weights(dir.str(), config);
    ASSERT_EQ(weights.size(), stored.size());
    EXPECT_EQ(weights.contains("lm_head.weight"), !tied);
    for (const auto& [name, tensor] : stored) {
      EXPECT_EQ(weights.at(name).scalar_type(), at::kBFloat16);
      EXPECT_TRUE(weights.at(name).equal(tensor)) << name;
    }
  }
}

TEST(LlamaWeights, OneErrorListsEveryDifference) {
  TempDir dir;
  LlamaConfig config = tiny(false);
  Named stored = numbered(config);
  stored[0].first = "other.weight";  // lm_head.weight
  for (auto& [name, tensor] : stored) {
    if (name == "model.norm.weight") tensor = at::zeros({9});
    if (name == "model.layers.1.mlp.up_proj.weight") tensor = tensor.to(at::kLong);
    if (name == "model.layers.0.self_attn.k_proj.weight") name = "model.layers.0.self_attn.k_proj.bias";
  }
  save_tensors(dir / "m.safetensors", stored);
  for (const char* part :
       {"2 tensors are missing: lm_head.weight, model.layers.0.self_attn.k_proj.weight",
        "2 tensors are not of this model: model.layers.0.self_attn.k_proj.bias, other.weight",
        "model.norm.weight has a wrong shape (found [9], expected [8])",
        "model.layers.1.mlp.up_proj.weight has a wrong dtype (found I64, expected a floating-point type)"})
    expect_error(ErrorKind::kInput, part, [&] { load_llama_weights(dir / "m.safetensors", config); });
}

TEST(LlamaWeights, RedundantEntriesAreDroppedAndContradictionsRefused) {
  TempDir dir;
  LlamaConfig config = tiny(true);
  Named stored = numbered(config);
  const Tensor embedding = stored[0].second;
  ASSERT_EQ(stored[0].first, "model.embed_tokens.weight");
  stored.emplace_back("model.layers.0.self_attn.rotary_emb.inv_freq", at::zeros({2}));
  stored.emplace_back("lm_head.weight", embedding.clone());
  save_tensors(dir / "m.safetensors", stored);
  EXPECT_EQ(load_llama_weights(dir / "m.safetensors", config).size(), llama_tensor_shapes(config).size());
  stored.back().second = embedding + 1;
  save_tensors(dir / "m.safetensors", stored);
  expect_error(ErrorKind::kInput, "lm_head.weight differs from the embedding",
               [&] { load_llama_weights(dir / "m.safetensors", config); });
}

TEST(LlamaWeights, PrefixAndExtraRows) {
  TempDir dir;
  LlamaConfig larger = tiny(false);
  larger.vocab_size = 11;
  Named stored = numbered(larger, at::kFloat, "lm.");
  stored.emplace_back("projector.mlp.0.bias", at::zeros({3}));
  save_tensors(dir / "m.safetensors", stored);
  LlamaConfig config = tiny(false);
  expect_error(ErrorKind::kInput,
               "model.embed_tokens.weight has a wrong shape (found [11, 8], expected [10, 8])",
               [&] { load_llama_weights(dir / "m.safetensors", config, "lm."); });
  EXPECT_EQ(load_llama_weights(dir / "m.safetensors", config, "lm.", true).size(), stored.size() - 1);
  EXPECT_EQ(config.vocab_size, 11);
  config.vocab_size = 12;  // fewer rows than the configuration says are never legal
  expect_error(ErrorKind::kInput, "wrong shape",
               [&] { load_llama_weights(dir / "m.safetensors", config, "lm.", true); });
}

std::string float_bytes(const Tensor& tensor) {
  return std::string(static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes());
}

/// The weights under GGUF names, q and k in interleaved order as llama.cpp's converter writes them.
GgufWriter as_gguf(const LlamaConfig& config, const Named& tensors) {
  const std::vector<std::pair<std::string, std::string>> names = {{"model.embed_tokens", "token_embd"},
                                                                  {"model.norm", "output_norm"},
                                                                  {"lm_head", "output"},
                                                                  {"model.layers.", "blk."},
                                                                  {"input_layernorm", "attn_norm"},
                                                                  {"self_attn.q_proj", "attn_q"},
                                                                  {"self_attn.k_proj", "attn_k"},
                                                                  {"self_attn.v_proj", "attn_v"},
                                                                  {"self_attn.o_proj", "attn_output"},
                                                                  {"mlp.gate_proj", "ffn_gate"},
                                                                  {"post_attention_layernorm", "ffn_norm"},
                                                                  {"mlp.up_proj", "ffn_up"},
                                                                  {"mlp.down_proj", "ffn_down"}};
  GgufWriter writer;
  writer.string("general.architecture", "llama").integer("llama.block_count", config.num_layers);
  for (const auto& [name, tensor] : tensors) {
    std::string gguf = name;
    for (const auto& [from, to] : names)
      if (const size_t at = gguf.find(from); at != std::string::npos) gguf.replace(at, from.size(), to);
    Tensor weight = tensor;
    const int64_t heads = name.find("q_proj") != std::string::npos   ? config.num_heads
                          : name.find("k_proj") != std::string::npos ? config.num_kv_heads
                                                                     : 0;
    if (heads > 0)
      weight = tensor.view({heads, 2, config.head_dim / 2, tensor.size(1)})
                   .transpose(1, 2)
                   .reshape(tensor.sizes());
    writer.tensor(gguf, std::vector<uint64_t>(weight.sizes().begin(), weight.sizes().end()), 0,
                  float_bytes(weight));
  }
  return writer;
}

TEST(LlamaWeights, GgufRowsOfQueriesAndKeysAreRotateHalfAgain) {
  TempDir dir;
  for (const bool tied : {true, false}) {
    LlamaConfig config = tiny(tied);
    const Named stored = numbered(config);
    const std::string path = as_gguf(config, stored).save(dir / "m.gguf");
    const auto weights = load_llama_weights(path, config);
    ASSERT_EQ(weights.size(), stored.size());
    for (const auto& [name, tensor] : stored) EXPECT_TRUE(weights.at(name).equal(tensor)) << name;
  }
}

TEST(LlamaWeights, GgufDifferencesAreListed) {
  TempDir dir;
  LlamaConfig config = tiny(true);
  Named stored = numbered(config);
  stored[0].second = at::zeros({10, 9});
  stored.pop_back();  // model.norm.weight
  GgufWriter writer = as_gguf(config, stored);
  writer.tensor("blk.0.attn_q.bias", {8}, 0, std::string(32, '\0'))
      .tensor("rope_freqs.weight", {2}, 0, std::string(8, '\0'));
  const std::string path = writer.save(dir / "m.gguf");
  for (const char* part :
       {"model.embed_tokens.weight has a wrong shape (found [10, 9], expected [10, 8])",
        "1 tensors are missing: model.norm.weight", "1 tensors are not of this model: blk.0.attn_q.bias"})
    expect_error(ErrorKind::kInput, part, [&] { load_llama_weights(path, config); });
}

TEST(LlamaWeights, FingerprintIsTheDocumentedHash) {
  TempDir dir;
  const std::string path = dir / "m.safetensors";
  const Tensor large = at::arange(3000, at::kFloat).view({30, 100}), small = at::arange(3, at::kBFloat16);
  save_tensors(path, {{"b", large}, {"a", small}});
  const std::string bytes = float_bytes(large);
  const std::string expected = std::string("a\0BF16\0003\0", 9) + float_bytes(small) + float_bytes(small) +
                               std::string("b\0F32\00030,100\0", 13) + bytes.substr(0, 4096) +
                               bytes.substr(bytes.size() - 4096);
  EXPECT_EQ(weights_fingerprint(path), sha256_hex(expected));
}

TEST(LlamaWeights, FingerprintOfGgufUsesHuggingFaceNames) {
  TempDir dir;
  const std::string data(64, 'x');
  GgufWriter writer;
  writer.integer("llama.block_count", 1)
      .tensor("blk.0.attn_norm.weight", {16}, 0, data)
      .tensor("z", {16}, 0, data);
  const std::string path = writer.save(dir / "m.gguf");
  const std::string expected = std::string("model.layers.0.input_layernorm.weight\0F32\00016\0", 45) + data +
                               data + std::string("z\0F32\00016\0", 9) + data + data;
  EXPECT_EQ(weights_fingerprint(path), sha256_hex(expected));
}

TEST(LlamaWeights, SharedModelsLoad) {
  CTXC_NEEDS_SHARED();
  for (const char* name : {"tied_gqa_llama3", "untied_mha_plain"}) {
    const std::string path = testing::shared() / "fixtures/llama" / name;
    LlamaConfig config = LlamaConfig::load(path);
    const auto weights = load_llama_weights(path, config);
    EXPECT_EQ(weights.size(), llama_tensor_shapes(config).size());
    EXPECT_EQ(weights_fingerprint(path).size(), 64u);
  }
  LlamaConfig config = LlamaConfig::load(testing::shared() / "fixtures/comprexit/base");
  EXPECT_NO_THROW(load_llama_weights(testing::shared() / "fixtures/comprexit/ckpt_ntp", config, "lm.", true));
}

}  // namespace
}  // namespace ctxc
