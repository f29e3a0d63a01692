// Checkpoints in and out: ours, the ComprExIT repository's, and compiled memories; broken ones of each.
#include "model/artifact.h"

#include <filesystem>

#include "core/file.h"
#include "model/parameters.h"
#include "model/weights.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::TempDir;
namespace fs = std::filesystem;

std::string golden() {
  return (testing::root() / "tests/fixtures/comprexit/checkpoint").string();
}
std::string tokenizer_folder() {
  return (testing::root() / "models/tiny-facts").string();
}

void copy_tokenizer(const fs::path& to) {
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
    write_file_atomic((to / name).string(), read_file(tokenizer_folder() + "/" + name));
}

/// A random base in Hugging Face form, with a tokenizer.
void write_base(const fs::path& folder, uint64_t seed = 1) {
  const Tokenizer tokenizer = Tokenizer::load(tokenizer_folder());
  LlamaConfig config;
  config.vocab_size = tokenizer.vocab_size();
  config.hidden_size = 16;
  config.num_layers = 2;
  config.num_heads = config.num_kv_heads = 2;
  config.head_dim = 8;
  config.intermediate_size = 24;
  config.max_position = 128;
  config.tie_word_embeddings = true;
  make_directories(folder.string());
  write_file_atomic((folder / "config.json").string(), config.to_json().dump());
  save_sharded(folder.string(), Backbone::random(config, seed)->weights());
  copy_tokenizer(folder);
}

constexpr const char* kSection =
    "{name: comprexit, window: 8, gate_width: 4, metric_width: 4, sinkhorn_iterations: 5}";

std::shared_ptr<Compressor> make_method(const LlamaConfig& config, uint64_t seed = 2) {
  return make_compressor(Yaml::parse(kSection, "test"), {.backbone = config, .head_ids = {}, .seed = seed});
}

/// A checkpoint folder as a run writes it.
void write_step(const fs::path& run, int64_t step, const std::string& base, const TensorMap& tensors) {
  const fs::path folder = run / "checkpoints" / fmt::format("step-{:08}", step);
  make_directories(folder.string());
  const std::string file = (folder / "trainable.safetensors").string();
  save_tensors(file, {tensors.begin(), tensors.end()});
  const OrderedJson state{
      {"format_version", 1},
      {"step", step},
      {"config",
       fmt::format("backbone: {{path: {}}}\ncompressor: {}\nprompt: {{cleanup: none}}\n", base, kSection)},
      {"files", {{"trainable.safetensors", sha256_hex_of_file(file)}}}};
  write_file_atomic((folder / "state.json").string(), state.dump());
}

TensorMap trained(const LlamaConfig& config, uint64_t seed) {
  TensorMap tensors;
  for (const auto& [name, tensor] : parameters_of(*make_method(config, seed)))
    tensors["compressor." + name] = tensor;
  return tensors;
}

class OurCheckpoint : public ::testing::Test {
 protected:
  void SetUp() override {
    base_ = (folder_ / "base").string();
    run_ = folder_ / "run";
    write_base(base_);
    config_ = LlamaConfig::load(base_);
    write_step(run_, 10, base_, trained(config_, 10));
    write_step(run_, 20, base_, trained(config_, 20));
  }
  fs::path step(int64_t n) const { return run_ / "checkpoints" / fmt::format("step-{:08}", n); }
  TempDir folder_;
  std::string base_;
  fs::path run_;
  LlamaConfig config_;
};

TEST_F(OurCheckpoint, NewestOfARunOrTheOneNamed) {
  const LoadedMethod newest = load_method(run_.string());
  EXPECT_TRUE(newest.path.ends_with("step-00000020"));
  EXPECT_EQ(newest.prompt.cleanup, "none");
  const auto expected = parameters_of(*make_method(config_, 20));
  for (const auto& [name, tensor] : parameters_of(*newest.compressor))
    EXPECT_TRUE(at::equal(tensor, expected.at(name)));
  EXPECT_TRUE(load_method(step(10).string()).path.ends_with("step-00000010"));
}

TEST_F(OurCheckpoint, DamagedOnesAreSkipped) {
  write_file_atomic((step(20) / "trainable.safetensors").string(), "short");
  EXPECT_TRUE(load_method(run_.string()).path.ends_with("step-00000010"));
  expect_error(ErrorKind::kInput, "SHA-256 differs", [&] { load_method(step(20).string()); });
  fs::remove(step(10) / "trainable.safetensors");
  expect_error(ErrorKind::kInput, "is damaged", [&] { load_method(run_.string()); });
  expect_error(ErrorKind::kInput, "holds no checkpoint", [&] { load_method(folder_.str()); });
}

TEST_F(OurCheckpoint, OtherTensorsAreAllNamed) {
  TensorMap tensors = trained(config_, 1);
  tensors.erase("compressor.pooling_layer.metric_ln.weight");
  tensors["compressor.pooling_layer.value_ln.weight"] = at::zeros({3});
  tensors["compressor.extra"] = at::zeros({1});
  write_step(run_, 30, base_, tensors);
  for (const char* part :
       {"metric_ln.weight is missing", "value_ln.weight has another shape (found [3], expected [16])",
        "extra [1] is unexpected"})
    expect_error(ErrorKind::kInput, part, [&] { load_method(run_.string()); });
}

TEST_F(OurCheckpoint, TrainedBaseComesFromTheCheckpoint) {
  TensorMap tensors = trained(config_, 5);
  const auto other = Backbone::random(config_, 99);
  for (const auto& [name, tensor] : other->weights()) tensors["backbone." + name] = tensor;
  write_step(run_, 40, base_, tensors);
  const LoadedMethod method = load_method(run_.string());
  EXPECT_TRUE(at::equal(method.backbone->weights().at("model.norm.weight"),
                        other->weights().at("model.norm.weight")));
  EXPECT_TRUE(at::equal(method.backbone->weights().at("model.embed_tokens.weight"),
                        other->weights().at("model.embed_tokens.weight")));
}

TEST(PeerCheckpoint, SettingsInBothDirections) {
  const Json config = read_json_file(golden() + "/config.json");
  const PeerMethod method = load_peer_method(golden());
  EXPECT_EQ(method.section.find("window")->scalar(), "16");
  EXPECT_EQ(method.section.find("grid")->scalar(), "padded");
  EXPECT_EQ(method.context_length, 40);
  EXPECT_EQ(method.backbone->config().vocab_size, 97);  // one row more than backbone_config_dict says
  const TempDir folder;
  const std::string out = (folder / "out").string();
  save_peer_checkpoint(out, *method.backbone, *method.compressor, method.section, 40, tokenizer_folder());
  const Json written = read_json_file(out + "/config.json");
  for (const auto& [key, value] : config.items()) {
    if (key == "backbone_config_dict") continue;
    EXPECT_EQ(written.at(key), value) << key;
  }
  const auto before = load_tensors(golden()), after = load_tensors(out);
  ASSERT_EQ(before.size(), after.size());
  for (const auto& [name, tensor] : before) EXPECT_TRUE(at::equal(tensor, after.at(name))) << name;
  EXPECT_TRUE(fs::exists(out + "/tokenizer.json"));
  EXPECT_TRUE(is_peer_checkpoint(out));
  EXPECT_FALSE(is_peer_checkpoint(tokenizer_folder()));
}

TEST(PeerCheckpoint, OtherBasesAreRefusedWithAllDifferences) {
  const PeerMethod method = load_peer_method(golden());
  const TempDir folder;
  LlamaConfig config = method.backbone->config();
  config.vocab_size = 96;
  TensorMap base(method.backbone->weights().begin(), method.backbone->weights().end());
  base["model.embed_tokens.weight"] = base["model.embed_tokens.weight"].slice(0, 0, 96).contiguous();
  write_file_atomic((folder / "config.json").string(), config.to_json().dump());
  save_sharded(folder.str(), base);
  EXPECT_EQ(load_peer_method(golden(), folder.str()).backbone->config().vocab_size, 97);
  base["model.norm.weight"] = base["model.norm.weight"] + 1;
  base["model.embed_tokens.weight"] = base["model.embed_tokens.weight"] * 2;
  save_sharded(folder.str(), base);
  for (const char* part :
       {"model.norm.weight has other values", "model.embed_tokens.weight has other values"})
    expect_error(ErrorKind::kInput, part, [&] { load_peer_method(golden(), folder.str()); });
}

TEST(PeerCheckpoint, UnsupportedSettingsAreAllNamed) {
  Json config = read_json_file(golden() + "/config.json");
  config["pooling_method"] = "sliding";
  config["lora_compressor"] = true;
  for (const char* part : {"pooling_method (found 'sliding'", "lora_compressor (found true"})
    expect_error(ErrorKind::kInput, part, [&] { peer_compressor_section(config, "config.json"); });
  const Yaml defaults = peer_compressor_section(Json::object(), "config.json");
  EXPECT_EQ(defaults.find("window")->scalar(), "128");
  EXPECT_EQ(defaults.find("layers")->scalar(), "0");
  const Yaml uniform =
      peer_compressor_section({{"pooling_method", "ot"}, {"top_k_layers", 2}}, "config.json");
  EXPECT_EQ(uniform.find("source_mass")->scalar(), "uniform");
  EXPECT_EQ(uniform.find("layers")->scalar(), "2");
}

TEST(PeerCheckpoint, OverridesAndExportsThatCannotBe) {
  expect_error(ErrorKind::kUsage, "only the compressor's keys",
               [] { load_peer_method(golden(), "", {"train.lr=1"}); });
  const PeerMethod method = load_peer_method(golden(), "", {"compressor.init=residual"});
  const TempDir folder;
  expect_error(ErrorKind::kUsage, "init: residual", [&] {
    save_peer_checkpoint(folder.str(), *method.backbone, *method.compressor, method.section, 40, "");
  });
  const Yaml other = Yaml::parse("{name: full}", "test");
  expect_error(ErrorKind::kUsage, "another method", [&] {
    save_peer_checkpoint(folder.str(), *method.backbone, *method.compressor, other, 40, "");
  });
}

TEST(Shards, LargeModelsAreSplitWithAnIndex) {
  const TempDir folder;
  TensorMap tensors;
  for (int64_t i = 0; i < 5; ++i) tensors[fmt::format("t{}", i)] = at::full({4}, i, at::kFloat);
  save_sharded(folder.str(), tensors, 40);
  EXPECT_TRUE(fs::exists(folder / "model-00001-of-00003.safetensors"));
  const auto back = load_tensors(folder.str());
  ASSERT_EQ(back.size(), 5u);
  for (const auto& [name, tensor] : tensors) EXPECT_TRUE(at::equal(tensor, back.at(name)));
}

class CompiledMemory : public ::testing::Test {
 protected:
  void SetUp() override {
    base_ = (folder_ / "base").string();
    write_base(base_);
    backbone_ = Backbone::load(base_);
    tokenizer_ = Tokenizer::load(base_);
    memory_.head_ids_BP = at::tensor({3, 3}, at::kLong).view({2, 1});
    memory_.slots_BKD = at::arange(2 * 3 * 16, at::kFloat).view({2, 3, 16});
    memory_.mask_BK = at::tensor({1, 1, 1, 0, 1, 1}, at::kLong).view({2, 3}).to(at::kBool);
    number_densely(memory_, 1);
    path_ = (folder_ / "memory.safetensors").string();
  }
  TempDir folder_;
  std::string base_, path_;
  std::shared_ptr<Backbone> backbone_;
  Tokenizer tokenizer_;
  Memory memory_;
};

TEST_F(CompiledMemory, HeaderFirstAndMaskedSlotsDropped) {
  save_memory(path_, make_memory_artifact(memory_, 1, *backbone_, tokenizer_, "comprexit"));
  const MemoryArtifact back = load_memory(path_);
  EXPECT_EQ(back.kind, "embeds");
  ASSERT_EQ(back.embeds_ND.sizes(), at::IntArrayRef({3, 16}));
  EXPECT_TRUE(at::equal(back.embeds_ND[0], backbone_->embed(at::tensor({3}, at::kLong))[0]));
  EXPECT_TRUE(at::equal(back.embeds_ND[1], memory_.slots_BKD[1][1]));
  EXPECT_EQ(back.info["n_slots"], 2);
  EXPECT_EQ(back.info["header_token_ids"], OrderedJson({3}));
  check_memory_fits(back, *backbone_, tokenizer_, false);
  const Memory read = memory_of(back, *backbone_);
  EXPECT_EQ(read.slots(), 3);
  EXPECT_EQ(read.next_position_B[0].item<int64_t>(), 3);
}

TEST_F(CompiledMemory, KeysAndValues) {
  for (int64_t layer = 0; layer < 2; ++layer)
    memory_.kv.push_back({at::rand({2, 2, 3, 8}), at::rand({2, 2, 3, 8})});
  save_memory(path_, make_memory_artifact(memory_, 1, *backbone_, tokenizer_, "500x"));
  const MemoryArtifact back = load_memory(path_);
  // The head's keys and values, which the base gives it, and then the slots that are real.
  ASSERT_EQ(back.k_LGNE.sizes(), at::IntArrayRef({2, 2, 3, 8}));
  EXPECT_TRUE(at::equal(back.k_LGNE[1].select(1, 0), read_kv(*backbone_, {3})[1].key_BGKE[0].select(1, 0)));
  EXPECT_TRUE(at::equal(back.v_LGNE[1].select(1, 1), memory_.kv[1].value_BGKE[1].select(1, 1)));
  EXPECT_EQ(back.info["header_token_ids"], OrderedJson({3}));
  check_memory_fits(back, *backbone_, tokenizer_, false);
  EXPECT_EQ(memory_of(back, *backbone_).kv.size(), 2u);
}

TEST_F(CompiledMemory, OtherModelsAreRefusedWithAllDifferences) {
  MemoryArtifact artifact = make_memory_artifact(memory_, 0, *backbone_, tokenizer_, "comprexit");
  artifact.info["model"]["weights_fingerprint"] = "other";
  expect_error(ErrorKind::kInput, "weights_fingerprint",
               [&] { check_memory_fits(artifact, *backbone_, tokenizer_, false); });
  check_memory_fits(artifact, *backbone_, tokenizer_, true);
  artifact.info["model"]["hidden_size"] = 8;
  artifact.info["tokenizer_sha256"] = "other";
  for (const char* part : {"hidden_size (found 8, expected 16)", "tokenizer_sha256"})
    expect_error(ErrorKind::kInput, part, [&] { check_memory_fits(artifact, *backbone_, tokenizer_, true); });
}

TEST_F(CompiledMemory, BrokenFilesAreRefused) {
  const auto expect_refused = [&](const char* part, const std::function<void(MemoryArtifact&)>& damage) {
    MemoryArtifact artifact = make_memory_artifact(memory_, 0, *backbone_, tokenizer_, "comprexit");
    damage(artifact);
    save_memory(path_, artifact);
    expect_error(ErrorKind::kInput, part, [&] { load_memory(path_); });
  };
  expect_refused("unknown artifact format (found 2", [](MemoryArtifact& a) { a.info["format_version"] = 2; });
  expect_refused("unknown kind", [](MemoryArtifact& a) { a.info["kind"] = "tape"; });
  expect_refused("'k' is missing", [](MemoryArtifact& a) { a.info["kind"] = "kv"; });
  expect_refused("rows do not match", [](MemoryArtifact& a) { a.info["n_slots"] = 7; });
  expect_refused("not what its kind asks for", [](MemoryArtifact& a) { a.embeds_ND = at::zeros({4, 4, 4}); });
  save_tensors(path_, {{"embeds", at::zeros({1, 1})}});
  expect_error(ErrorKind::kInput, "no key 'ctxc'", [&] { load_memory(path_); });
}

}  // namespace
}  // namespace ctxc
