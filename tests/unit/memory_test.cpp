// Memory artifacts of kind kv: stored, moved, joined, and made from embeddings; foreign and broken ones
// refused.
#include "model/memory_edit.h"

#include <filesystem>

#include "core/file.h"
#include "model/layers.h"
#include "model/parameters.h"
#include "model/per_document.h"
#include "model/reading.h"
#include "model/weights.h"
#include "testing.h"
#include "throws.h"
#include "tiny_llama.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::random_tensor;
using testing::random_tokens;
using testing::relative_error;
namespace fs = std::filesystem;

class KvMemory : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::string tokens = (testing::root() / "models/tiny-facts").string();
    tokenizer_ = Tokenizer::load(tokens);
    LlamaConfig config = testing::tiny_llama();
    config.vocab_size = tokenizer_.vocab_size();
    config.rope_scaling = RopeScaling{8, 1, 4, 64};
    write_file_atomic((folder_ / "config.json").string(), config.to_json().dump());
    save_sharded(folder_.str(), Backbone::random(config, 5)->weights());
    backbone_ = Backbone::load(folder_.str());
    path_ = (folder_ / "memory.safetensors").string();
  }

  /// `header`, then random rows.
  MemoryArtifact embeds(const Tokens& header, int64_t slots, uint64_t seed) const {
    Memory memory;
    const std::vector<int64_t> ids(header.begin(), header.end());
    memory.head_ids_BP = at::tensor(ids, at::kLong).view({1, static_cast<int64_t>(ids.size())});
    memory.slots_BKD = random_tensor({1, slots, backbone_->config().hidden_size}, seed);
    memory.mask_BK = at::ones({1, slots}, at::kBool);
    number_densely(memory, static_cast<int64_t>(ids.size()));
    MemoryArtifact artifact = make_memory_artifact(memory, 0, *backbone_, tokenizer_, "test");
    artifact.info["context"] = {{"sha256", "x"}, {"n_tokens", 4 * slots}, {"truncated", false}};
    return artifact;
  }

  Tensor logits_after(const MemoryArtifact& memory, const Tokens& text) const {
    const at::NoGradGuard no_grad;
    const PackedReading reading = pack_reading(*backbone_, memory_of(memory, *backbone_), {{0, {text}}});
    const Tensor hidden = backbone_->forward(reading.rows).hidden[0];
    return backbone_->logits(hidden.narrow(0, reading.first[0][0], static_cast<int64_t>(text.size())));
  }

  testing::TempDir folder_;
  std::shared_ptr<Backbone> backbone_;
  Tokenizer tokenizer_;
  std::string path_;
};

TEST_F(KvMemory, SlotsWithGapsAreMovedTogether) {
  const Tokens text = random_tokens(6, 3);
  const std::vector<KvPair> kv = read_kv(*backbone_, text);
  Memory memory = kv_memory(kv);
  memory.mask_BK[0][4] = false;
  memory.position_BK = at::tensor({0, 1, 2, 3, 0, 5}, at::kLong).view({1, 6});
  memory.next_position_B = at::tensor({9}, at::kLong);
  const MemoryArtifact artifact = make_memory_artifact(memory, 0, *backbone_, tokenizer_, "gaps");
  const Tensor moved = shift_keys(kv[0].key_BGKE[0].narrow(1, 5, 1), at::tensor({-1}, at::kLong),
                                  backbone_->inverse_frequencies());
  EXPECT_TRUE(at::equal(artifact.k_LGNE[0].narrow(1, 0, 4), kv[0].key_BGKE[0].narrow(1, 0, 4)));
  EXPECT_LT(relative_error(artifact.k_LGNE[0].narrow(1, 4, 1), moved), 1e-6);
  EXPECT_GT(relative_error(moved, kv[0].key_BGKE[0].narrow(1, 5, 1)), 1e-3);
}

TEST_F(KvMemory, OnePrefillReadsLikeTheEmbeddings) {
  const MemoryArtifact rows = embeds({3, 9}, 6, 1);
  const MemoryArtifact kv = prefilled(rows, *backbone_);
  EXPECT_EQ(kv.kind, "kv");
  EXPECT_EQ(kv.k_LGNE.sizes(), at::IntArrayRef({3, 2, 8, 8}));
  const Tokens text = random_tokens(7, 3);
  EXPECT_LT(relative_error(logits_after(kv, text), logits_after(rows, text)), 1e-5);
  save_memory(path_, kv);
  const MemoryArtifact back = load_memory(path_);
  EXPECT_TRUE(at::equal(back.k_LGNE, kv.k_LGNE));
  check_memory_fits(back, *backbone_, tokenizer_, false);
  expect_error(ErrorKind::kUsage, "has been read already", [&] { prefilled(kv, *backbone_); });
}

TEST_F(KvMemory, StackedRowsReadLikeEachAlone) {
  std::vector<Memory> memories;
  for (const int64_t length : {6, 2, 9})
    memories.push_back(kv_memory(read_kv(*backbone_, random_tokens(length, length))));
  memories[1].next_position_B = at::tensor({5}, at::kLong);  // where its text would have ended
  const Memory all = stacked(memories);
  ASSERT_EQ(all.batch(), 3);
  ASSERT_EQ(all.slots(), 9);
  const Tokens text = random_tokens(7, 3);
  const at::NoGradGuard no_grad;
  const auto states = [&](const Memory& memory, int64_t row) {
    const PackedReading reading = pack_reading(*backbone_, memory, {{row, {text}}});
    return backbone_->forward(reading.rows).hidden[0];
  };
  for (int64_t row = 0; row < 3; ++row)
    EXPECT_LT(relative_error(states(all, row), states(memories[row], 0)), 1e-6);
  EXPECT_GT(relative_error(states(all, 0), states(all, 2)), 1e-3);
  memories.push_back(memory_of(embeds({}, 4, 2), *backbone_));
  expect_error(ErrorKind::kInternal, "keys and values alone", [&] { stacked(memories); });
}

TEST_F(KvMemory, ComposedEqualsSlotsReadWhereTheyStand) {
  const MemoryArtifact a = embeds({}, 5, 1), b = embeds({}, 4, 2), c = embeds({}, 3, 3);
  const MemoryArtifact joined = compose(
      {prefilled(a, *backbone_), prefilled(b, *backbone_), prefilled(c, *backbone_)}, {"a", "b", "c"});
  ASSERT_EQ(joined.rows(), 12);
  // The reference reads every part alone, but at the positions it has in the whole.
  int64_t first = 0;
  for (const MemoryArtifact* part : {&a, &b, &c}) {
    const int64_t count = part->rows();
    PackedRows rows;
    rows.embeds_PD = part->embeds_ND;
    rows.positions_P = at::arange(first, first + count, at::kLong);
    rows.segments = {{.length = count, .mask_TS = {}, .prefix_row = -1}};
    const auto kv =
        backbone_->forward(rows, {.collect = {}, .layers = 0, .keep_kv = true, .adapters = nullptr}).kv;
    for (int64_t layer = 0; layer < 3; ++layer) {
      EXPECT_LT(relative_error(joined.k_LGNE[layer].narrow(1, first, count), kv[layer].key_BGKE[0]), 1e-5);
      EXPECT_LT(relative_error(joined.v_LGNE[layer].narrow(1, first, count), kv[layer].value_BGKE[0]), 1e-5);
    }
    first += count;
  }
  EXPECT_EQ(joined.info["context"]["n_tokens"], 48);
  EXPECT_EQ(joined.info["parts"].size(), 3u);
  save_memory(path_, joined);
  EXPECT_EQ(load_memory(path_).info["positions"]["count"], 12);
}

TEST_F(KvMemory, ComposedKeepsOneHeader) {
  const MemoryArtifact a = prefilled(embeds({3, 9}, 5, 1), *backbone_),
                       b = prefilled(embeds({3, 9}, 4, 2), *backbone_);
  const MemoryArtifact joined = compose({a, b}, {"a", "b"});
  EXPECT_EQ(joined.rows(), 11);
  EXPECT_EQ(joined.header(), 2);
  const MemoryArtifact moved = moved_by(b, 5);
  EXPECT_TRUE(at::equal(joined.k_LGNE.narrow(2, 7, 4), moved.k_LGNE.narrow(2, 2, 4)));
  EXPECT_TRUE(at::equal(joined.v_LGNE.narrow(2, 7, 4), b.v_LGNE.narrow(2, 2, 4)));
  EXPECT_FALSE(at::equal(moved.k_LGNE, b.k_LGNE));
  EXPECT_LT(relative_error(moved_by(moved, -5).k_LGNE, b.k_LGNE), 1e-6);
  check_memory_fits(joined, *backbone_, tokenizer_, false);
  const MemoryArtifact soft = compose({embeds({3, 9}, 5, 1), embeds({3, 9}, 4, 2)}, {"a", "b"});
  EXPECT_TRUE(at::equal(soft.embeds_ND.narrow(0, 7, 4), embeds({3, 9}, 4, 2).embeds_ND.narrow(0, 2, 4)));
}

TEST_F(KvMemory, OnlyMemoriesThatBelongTogetherAreJoined) {
  const MemoryArtifact a = prefilled(embeds({3, 9}, 5, 1), *backbone_);
  MemoryArtifact other = prefilled(embeds({3, 8}, 4, 2), *backbone_);
  other.info["model"]["rope_theta"] = 5.0;
  for (const char* part : {"b: rope_theta (found 5.0", "header_token_ids (found [3,8], expected [3,9])"})
    expect_error(ErrorKind::kInput, part, [&] { compose({a, other}, {"a", "b"}); });
  expect_error(ErrorKind::kInput, "kind (found \"embeds\", expected \"kv\")", [&] {
    compose({a, embeds({3, 9}, 5, 1)}, {"a", "b"});
  });
  MemoryArtifact asked = prefilled(embeds({3, 9}, 4, 2), *backbone_);
  asked.info["prompt"] = {{"head", "bos"}, {"question_prefix", "Question: "}};  // the defaults, said
  compose({a, asked}, {"a", "b"});
  asked.info["prompt"]["question_prefix"] = "Q: ";
  asked.info["resume_text"] = "Q: ";
  for (const char* part : {R"(b: prompt.question_prefix (found "Q: ", expected "Question: "))",
                           R"(resume_text (found "Q: ", expected ""))"})
    expect_error(ErrorKind::kInput, part, [&] { compose({a, asked}, {"a", "b"}); });
}

TEST_F(KvMemory, Int8HoldsWhatItSays) {
  const MemoryArtifact exact = prefilled(embeds({3}, 12, 1), *backbone_);
  const MemoryArtifact small = stored_as(exact, "int8");
  const double loss = small.info["storage"]["k_relative_error"].get<double>();
  EXPECT_GT(loss, 1e-4);
  EXPECT_LT(loss, 0.02);
  EXPECT_NEAR(loss, (small.k_LGNE - exact.k_LGNE).norm().item<double>() / exact.k_LGNE.norm().item<double>(),
              1e-6);
  save_memory(path_, small);
  const MemoryArtifact back = load_memory(path_);
  EXPECT_TRUE(at::equal(back.k_LGNE, small.k_LGNE));
  EXPECT_TRUE(at::equal(back.v_LGNE, small.v_LGNE));
  EXPECT_EQ(load_tensors(path_).at("k").scalar_type(), at::kChar);
  save_memory(path_, back);  // once more: nothing is rounded a second time
  EXPECT_TRUE(at::equal(load_memory(path_).k_LGNE, small.k_LGNE));
  check_memory_fits(back, *backbone_, tokenizer_, false);
  const Tokens text = random_tokens(5, 3);
  EXPECT_LT(relative_error(logits_after(back, text), logits_after(exact, text)), 0.05);
  expect_error(ErrorKind::kUsage, "int8 storage is for keys and values",
               [&] { stored_as(embeds({3}, 2, 1), "int8"); });
  expect_error(ErrorKind::kUsage, "unknown storage type", [&] { stored_as(exact, "int4"); });
  EXPECT_EQ(stored_as(exact, "bfloat16").k_LGNE.scalar_type(), at::kBFloat16);
}

TEST_F(KvMemory, ForeignHeadersAreRefused) {
  MemoryArtifact memory = prefilled(embeds({3, 9}, 5, 1), *backbone_);
  memory.info["header_token_ids"] = {3, 8};
  expect_error(ErrorKind::kInput, "header rows",
               [&] { check_memory_fits(memory, *backbone_, tokenizer_, false); });
  MemoryArtifact rows = embeds({3, 9}, 5, 1);
  rows.info["header_token_ids"] = {4, 9};
  expect_error(ErrorKind::kInput, "header rows",
               [&] { check_memory_fits(rows, *backbone_, tokenizer_, false); });
  memory.info["header_token_ids"] = {3, 5000};
  memory.info["model"]["num_hidden_layers"] = 7;
  for (const char* part : {"5000 is no token here", "num_hidden_layers (found 7, expected 3)"})
    expect_error(ErrorKind::kInput, part, [&] { check_memory_fits(memory, *backbone_, tokenizer_, true); });
  memory.info["header_token_ids"] = {3};
  expect_error(ErrorKind::kInput, "expected n_header = 2",
               [&] { check_memory_fits(memory, *backbone_, tokenizer_, true); });
}

TEST_F(KvMemory, DamagedFilesAreRefused) {
  const MemoryArtifact good = prefilled(embeds({3}, 5, 1), *backbone_);
  MemoryArtifact moved = good;
  moved.info["positions"]["first"] = 3;
  save_memory(path_, moved);
  expect_error(ErrorKind::kInput, "positions do not fit (found first 3", [&] { load_memory(path_); });
  save_memory(path_, good);
  const std::string bytes = read_file(path_);
  write_file_atomic(path_, std::string_view(bytes).substr(0, bytes.size() - 100));
  expect_error(ErrorKind::kInput, path_, [&] { load_memory(path_); });
  MemoryArtifact small = stored_as(good, "int8");
  small.int8->k_scale_LG1E = at::ones({3, 2, 1, 4});
  save_memory(path_, small);
  expect_error(ErrorKind::kInput, "'k_scale' does not fit", [&] { load_memory(path_); });
  // One layer fewer, and the same numbers as other heads (three layers, 2 groups, width 8).
  const auto refused = [&](const std::string& part, const std::function<void(MemoryArtifact&)>& spoil) {
    MemoryArtifact memory = good;
    spoil(memory);
    save_memory(path_, memory);
    expect_error(ErrorKind::kInput, part, [&] { load_memory(path_); });
  };
  refused("num_hidden_layers (found 2, expected 3)", [](MemoryArtifact& m) {
    m.k_LGNE = m.k_LGNE.narrow(0, 0, 2);
    m.v_LGNE = m.v_LGNE.narrow(0, 0, 2);
  });
  refused("num_key_value_heads (found 4, expected 2); head_dim (found 4, expected 8)", [](MemoryArtifact& m) {
    m.k_LGNE = m.k_LGNE.reshape({3, 4, 6, 4});
    m.v_LGNE = m.v_LGNE.reshape({3, 4, 6, 4});
  });
  MemoryArtifact rows = embeds({3}, 5, 1);
  const int64_t width = rows.embeds_ND.size(1);
  rows.embeds_ND = rows.embeds_ND.narrow(1, 0, width - 1);
  save_memory(path_, rows);
  expect_error(ErrorKind::kInput, fmt::format("hidden_size (found {}, expected {})", width - 1, width),
               [&] { load_memory(path_); });
}

}  // namespace
}  // namespace ctxc
