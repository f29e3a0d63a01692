// Latent Context Compilation: the two passes are the paper's one masked sequence, the rotated frame is a
// shift, LoRA acts in the compile pass alone, and the baselines start where they should.
#include <filesystem>

#include "core/file.h"
#include "model/blocks/buffers.h"
#include "model/blocks/eviction.h"
#include "model/distill.h"
#include "model/layers.h"
#include "model/per_document.h"
#include "model/reading.h"
#include "testing.h"
#include "throws.h"
#include "tiny_llama.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::ids_of;
using testing::random_tensor;
using testing::random_tokens;
using testing::relative_error;

constexpr int64_t kLength = 21, kSlots = 6;  // ratio 4: the last block is short

class LccPasses : public ::testing::Test {
 protected:
  std::shared_ptr<PerDocument> method(const std::string& keys = "") const {
    const std::string lora = keys.find("lora:") == std::string::npos ? ", lora: {rank: 3, alpha: 6}" : "";
    const Yaml section = Yaml::parse("{name: lcc, ratio: 4" + lora + keys + "}", "test");
    return std::dynamic_pointer_cast<PerDocument>(
        make_compressor(section, {.backbone = testing::tiny_llama(), .head_ids = {}, .seed = 4}));
  }
  /// Every B of the LoRA away from zero, so that it matters.
  static void stir(const PerDocument& method) {
    const at::NoGradGuard no_grad;
    uint64_t index = 50;
    for (const ParameterGroup& group : method.groups())
      for (const auto& [name, tensor] : group.tensors)
        if (name.ends_with("lora_B")) Tensor(tensor).copy_(random_tensor(tensor.sizes(), index++));
  }
  Tensor read(const Memory& memory, const Tokens& text) const {
    const PackedReading reading = pack_reading(*backbone_, memory, {{0, {text}}});
    return backbone_->forward(reading.rows)
        .hidden[0]
        .narrow(0, reading.first[0][0], static_cast<int64_t>(text.size()));
  }
  /// The slots' keys back in the frame of the compile pass, and the text behind them there.
  Memory unrotated(Memory memory, int64_t header) const {
    const Tensor delta = at::cat({at::zeros({header}, at::kLong), at::full({kSlots}, kLength, at::kLong)});
    for (KvPair& pair : memory.kv)
      pair.key_BGKE = shift_keys(pair.key_BGKE, delta, backbone_->inverse_frequencies());
    memory.next_position_B = memory.next_position_B + kLength;
    return memory;
  }

  std::shared_ptr<Backbone> backbone_ = Backbone::random(testing::tiny_llama(), 8);
  Tokens header_ = random_tokens(3, 1), context_ = random_tokens(kLength, 2), text_ = random_tokens(5, 3);
};

TEST_F(LccPasses, TwoPassesAreOneMaskedSequence) {
  const at::NoGradGuard no_grad;
  const auto lcc = method(", optimise: buffers");
  const Document document = read_document(*backbone_, header_, context_);
  lcc->begin(*backbone_, document);
  const Tensor found = read(unrotated(lcc->memory(*backbone_), 3), text_);

  // [header, context, buffers, text] at 0, 1, 2, …: buffers see all before them, the text no context.
  const int64_t text = 5, buffers = 3 + kLength, begin = buffers + kSlots, total = begin + text;
  Tensor mask = at::ones({total, total}, at::kBool).tril_();
  mask.narrow(0, begin, text).narrow(1, 3, kLength).fill_(false);
  PackedRows rows;
  rows.embeds_PD = at::cat({backbone_->embed(ids_of(header_)), backbone_->embed(ids_of(context_)),
                            lcc->groups()[0].tensors[0].second, backbone_->embed(ids_of(text_))});
  rows.positions_P = at::arange(total, at::kLong);
  rows.segments = {{.length = total, .mask_TS = mask, .prefix_row = -1}};
  const Tensor expected = backbone_->forward(rows).hidden[0].narrow(0, begin, text);
  EXPECT_LT(relative_error(found, expected), 1e-5);
}

TEST_F(LccPasses, RotatedFrameIsAShiftWithoutAHeader) {
  const at::NoGradGuard no_grad;
  const auto lcc = method();
  const Document document = read_document(*backbone_, {}, context_);
  lcc->begin(*backbone_, document);
  stir(*lcc);
  const Memory memory = lcc->memory(*backbone_);
  EXPECT_EQ(memory.kv[0].key_BGKE.size(2), kSlots);
  EXPECT_EQ(memory.next_position_B.item<int64_t>(), kSlots);
  EXPECT_LT(relative_error(read(memory, text_), read(unrotated(memory, 0), text_)), 1e-5);
  // Keys that are not turned would be read wrongly: the test can fail.
  Memory wrong = unrotated(memory, 0);
  wrong.next_position_B = memory.next_position_B;
  EXPECT_GT(relative_error(read(memory, text_), read(wrong, text_)), 1e-3);
}

TEST_F(LccPasses, HeaderStaysVerbatimAndLoraStaysOutOfTheReadPass) {
  const at::NoGradGuard no_grad;
  const auto lcc = method();
  const Document document = read_document(*backbone_, header_, context_);
  lcc->begin(*backbone_, document);
  const Memory before = lcc->memory(*backbone_);
  stir(*lcc);
  const Memory after = lcc->memory(*backbone_);
  for (size_t layer = 0; layer < after.kv.size(); ++layer) {
    EXPECT_TRUE(
        at::equal(after.kv[layer].key_BGKE.narrow(2, 0, 3), document.frozen[layer].key_BGKE.narrow(2, 0, 3)));
    EXPECT_FALSE(at::allclose(after.kv[layer].key_BGKE.narrow(2, 3, kSlots),
                              before.kv[layer].key_BGKE.narrow(2, 3, kSlots)));
  }
  // Reading what the memory held before sees nothing of the adapters.
  const Tensor read_before = read(before, text_);
  stir(*lcc);
  EXPECT_TRUE(at::equal(read(before, text_), read_before));
}

TEST_F(LccPasses, ScopesAgreeUntilTheLoraMatters) {
  const at::NoGradGuard no_grad;
  const Document document = read_document(*backbone_, header_, context_);
  for (const char* place : {"", ", pos: spread", ", pos: spread, spread_mask: true"}) {
    const auto narrow = method(place), whole = method(std::string(place) + ", lora_scope: all");
    narrow->begin(*backbone_, document);
    whole->begin(*backbone_, document);
    const Memory a = narrow->memory(*backbone_), b = whole->memory(*backbone_);
    EXPECT_LT(relative_error(a.kv[2].key_BGKE, b.kv[2].key_BGKE), 1e-5) << place;
    stir(*narrow);
    stir(*whole);
    EXPECT_GT(
        relative_error(narrow->memory(*backbone_).kv[2].key_BGKE, whole->memory(*backbone_).kv[2].key_BGKE),
        1e-3);
  }
}

TEST_F(LccPasses, GradientsReachEveryParameter) {
  for (const char* keys :
       {"", ", optimise: buffers", ", optimise: kv", ", artifact: embeds", ", lora_scope: all"}) {
    const auto lcc = method(keys);
    const Document document = read_document(*backbone_, header_, context_);
    lcc->begin(*backbone_, document);
    stir(*lcc);
    read(lcc->memory(*backbone_), text_).square().sum().backward();
    for (const ParameterGroup& group : lcc->groups())
      for (const auto& [name, tensor] : group.tensors) {
        // What follows the last layer's keys and values reaches nothing that is kept of a KV memory.
        const bool last = name.find("layers.2.q_proj") != std::string::npos ||
                          name.find("layers.2.o_proj") != std::string::npos;
        if (last && std::string(keys) != ", artifact: embeds") continue;
        ASSERT_TRUE(tensor.grad().defined()) << keys << " " << name;
        EXPECT_GT(tensor.grad().abs().max().item<double>(), 0) << keys << " " << name;
      }
  }
}

TEST_F(LccPasses, DropoutActsInTrainingStepsAloneAndRepeats) {
  const at::NoGradGuard no_grad;
  const Document document = read_document(*backbone_, header_, context_);
  const auto slots = [&](const std::string& lora, StepKey key, const char* keys = "") {
    const auto lcc = method(std::string(keys) + ", lora: {rank: 3, alpha: 6" + lora + "}");
    lcc->begin(*backbone_, document);
    stir(*lcc);
    return lcc->memory(*backbone_, key).kv[2].value_BGKE;
  };
  const StepKey off{.training = false}, first{.seed = 1, .step = 1}, second{.seed = 1, .step = 2},
      other{.seed = 2, .step = 1};
  const std::string rate = ", dropout: 0.5";
  const Tensor plain = slots("", first);
  EXPECT_TRUE(at::equal(slots(rate, off), plain));  // final pass, measurements
  EXPECT_TRUE(at::equal(slots(", dropout: 0.0", first), plain));
  const Tensor dropped = slots(rate, first);
  EXPECT_TRUE(at::equal(slots(rate, first), dropped));
  EXPECT_GT(relative_error(dropped, plain), 1e-3);
  EXPECT_GT(relative_error(slots(rate, second), dropped), 1e-3);
  EXPECT_GT(relative_error(slots(rate, other), dropped), 1e-3);
  EXPECT_GT(relative_error(slots(rate, first, ", lora_scope: all"), slots("", first, ", lora_scope: all")),
            1e-3);
}

TEST(Lora, DropoutKeepsTheMeanAndItsShare) {
  const Tensor x = at::ones({400, 16}), weight = at::zeros({16, 16});
  LoraPair pair{at::eye(16), at::eye(16), 1, {.rate = 0.25, .seed = 3, .step = 7, .adapter = 2}};
  const Tensor y = adapted_linear(x, weight, &pair);
  EXPECT_TRUE(((y == 0) | ((y - 4.0 / 3).abs() < 1e-6)).all().item<bool>());
  EXPECT_NEAR((y == 0).to(at::kDouble).mean().item<double>(), 0.25, 0.02);
  const Tensor same = adapted_linear(x, weight, &pair);
  EXPECT_TRUE(at::equal(y, same));
  pair.dropout.adapter = 3;  // every adapter draws its own
  EXPECT_FALSE(at::equal(y, adapted_linear(x, weight, &pair)));
}

TEST_F(LccPasses, BaselinesStartFromTheUntrainedBuffers) {
  const at::NoGradGuard no_grad;
  const Document document = read_document(*backbone_, header_, context_);
  const auto buffers = method(", optimise: buffers"), kv = method(", optimise: kv"), lora = method();
  for (const auto& one : {buffers, kv, lora}) one->begin(*backbone_, document);
  const Memory expected = buffers->memory(*backbone_);
  for (const auto& one : {kv, lora}) {
    const Memory memory = one->memory(*backbone_);
    EXPECT_TRUE(at::equal(memory.kv[1].key_BGKE, expected.kv[1].key_BGKE));
    EXPECT_TRUE(at::equal(memory.kv[1].value_BGKE, expected.kv[1].value_BGKE));
  }
  EXPECT_EQ(kv->groups()[0].lr, 2e-2);
  EXPECT_FALSE(kv->adapters().has_value());
}

TEST_F(LccPasses, StartsFromGivenSlots) {
  const at::NoGradGuard no_grad;
  Document document = read_document(*backbone_, header_, context_);
  document.start_KD = random_tensor({4, 32}, 9);
  for (const char* optimise : {"buffers", "lora", "kv"}) {
    const auto lcc = method(fmt::format(", optimise: {}", optimise));
    lcc->begin(*backbone_, document);
    EXPECT_EQ(lcc->memory(*backbone_).kv[0].key_BGKE.size(2), 3 + 4) << optimise;
    if (std::string(optimise) == "kv") continue;
    EXPECT_TRUE(at::equal(lcc->groups()[0].tensors[0].second, document.start_KD));
  }
}

TEST_F(LccPasses, TruncationIsTheFirstTokens) {
  const at::NoGradGuard no_grad;
  const auto truncate = method(", optimise: truncate");
  const Document document = read_document(*backbone_, header_, context_);
  truncate->begin(*backbone_, document);
  EXPECT_TRUE(truncate->groups().empty());
  const Memory memory = truncate->memory(*backbone_);
  const Document cut =
      read_document(*backbone_, header_, Tokens(context_.begin(), context_.begin() + kSlots));
  EXPECT_LT(relative_error(memory.kv[2].key_BGKE, cut.frozen[2].key_BGKE), 1e-5);
  EXPECT_LT(relative_error(memory.kv[2].value_BGKE, cut.frozen[2].value_BGKE), 1e-5);
}

TEST_F(LccPasses, SnapKvKeepsRowsOfTheContextInOrder) {
  const at::NoGradGuard no_grad;
  const auto snapkv = method(", optimise: snapkv");
  const Document document = read_document(*backbone_, header_, context_);
  snapkv->begin(*backbone_, document);
  const Memory memory = snapkv->memory(*backbone_);
  ASSERT_EQ(memory.kv[0].key_BGKE.size(2), 3 + kSlots);
  EXPECT_EQ(memory.next_position_B.item<int64_t>(), 3 + kSlots);
  bool chosen = false;
  // Equal tokens have equal values in layer 0.
  for (size_t layer = 1; layer < 3; ++layer) {
    EXPECT_TRUE(at::equal(memory.kv[layer].key_BGKE.narrow(2, 0, 3),
                          document.frozen[layer].key_BGKE.narrow(2, 0, 3)));
    for (int64_t group = 0; group < 2; ++group) {
      const Tensor whole = document.frozen[layer].value_BGKE[0][group];
      int64_t before = 2;
      for (int64_t slot = 3; slot < 3 + kSlots; ++slot) {
        // The value names the column it came from; the key is that column's, turned back to the slot.
        const Tensor same = (whole == memory.kv[layer].value_BGKE[0][group][slot]).all(1).nonzero().flatten();
        ASSERT_EQ(same.numel(), 1);
        const int64_t column = same.item<int64_t>();
        EXPECT_GT(column, before);
        before = column;
        chosen = chosen || column != slot;
        const Tensor key =
            shift_keys(document.frozen[layer].key_BGKE[0][group].narrow(0, column, 1),
                       at::full({1}, slot - column, at::kLong), backbone_->inverse_frequencies());
        EXPECT_LT(relative_error(memory.kv[layer].key_BGKE[0][group].narrow(0, slot, 1), key), 1e-5);
      }
      EXPECT_EQ(before, 3 + kLength - 1);  // the window is kept
    }
  }
  EXPECT_TRUE(chosen);
  // All of it: the context itself.
  const auto all = snapkv_rows(*backbone_, document, kLength);
  EXPECT_LT(relative_error(all[2].key_BGKE, document.frozen[2].key_BGKE.narrow(2, 3, kLength)), 1e-5);
}

TEST(SnapKv, KeepsWhatTheWindowAttendsTo) {
  // One group with two heads, ten columns; behind one column of header. Both window rows look along the first
  // axis.
  const Tensor key = at::zeros({1, 10, 4}), query = at::zeros({2, 2, 4});
  query.select(2, 0).fill_(8);
  key[0][5][0] = 4;  // loud: its neighbours are kept for its sake
  key[0][0][0] = 5;  // the header is not voted on
  EXPECT_TRUE(
      at::equal(snapkv_columns(query, key, 1, 7), at::tensor({3, 4, 5, 6, 7, 8, 9}, at::kLong).unsqueeze(0)));
}

TEST_F(LccPasses, EmbedsAreReadBehindTheHeader) {
  const at::NoGradGuard no_grad;
  const auto lcc = method(", artifact: embeds");
  lcc->begin(*backbone_, read_document(*backbone_, header_, context_));
  const Memory memory = lcc->memory(*backbone_);
  EXPECT_TRUE(memory.kv.empty());
  EXPECT_EQ(memory.slots_BKD.sizes(), at::IntArrayRef({1, kSlots, 32}));
  EXPECT_EQ(memory.head_ids_BP.size(1), 3);
  // The scale puts them among the embeddings.
  const double slots = memory.slots_BKD.norm(2, 2).mean().item<double>();
  const double embeddings = lcc->groups()[0].tensors[0].second.norm(2, 1).mean().item<double>();
  EXPECT_NEAR(slots / embeddings, 1, 1e-4);
}

TEST(Buffers, FramesOfTheCompilePass) {
  EXPECT_TRUE(at::equal(buffer_frame("tail", false, 3, 8, 2).position_K, at::tensor({11, 12}, at::kLong)));
  EXPECT_TRUE(at::equal(buffer_frame("spread", false, 3, 8, 2).position_K, at::tensor({5, 9}, at::kLong)));
  const BufferFrame masked = buffer_frame("spread", true, 3, 7, 2);  // blocks end at 4 and 7
  EXPECT_TRUE(at::equal(masked.position_K, at::tensor({6, 9}, at::kLong)));
  EXPECT_EQ(masked.mask_KS.sum(1)[0].item<int64_t>(), 3 + 4 + 1);
  EXPECT_EQ(masked.mask_KS.sum(1)[1].item<int64_t>(), 3 + 7 + 2);
  EXPECT_FALSE(masked.mask_KS[0][3 + 4].item<bool>());
}

TEST(Buffers, StartFromTheContext) {
  const auto backbone = Backbone::random(testing::tiny_llama(), 8);
  const Tokens context = random_tokens(8, 5);
  const Tensor embeds = backbone->embed(ids_of(context));
  const Tensor pooled = initial_buffers("mean_pool", *backbone, context, 2, 1);
  const Tensor mean = embeds.narrow(0, 4, 4).mean(0);
  EXPECT_LT(relative_error(pooled[1] / pooled[1].norm(), mean / mean.norm()), 1e-5);
  EXPECT_NEAR(pooled[1].norm().item<double>(), embeds.narrow(0, 4, 4).norm(2, 1).mean().item<double>(), 1e-4);
  EXPECT_TRUE(
      at::equal(initial_buffers("strided", *backbone, context, 2, 1), embeds.index({at::tensor({3, 7})})));
  const Tensor normal = initial_buffers("normal", *backbone, context, 2, 1);
  EXPECT_FALSE(at::equal(normal, initial_buffers("normal", *backbone, context, 2, 2)));
  EXPECT_EQ(initial_buffers("sample_vocab", *backbone, context, 2, 1).sizes(), at::IntArrayRef({2, 32}));
}

TEST(LccConfig, WrongRecipesAreRefused) {
  const auto make = [](const std::string& keys) {
    make_compressor(Yaml::parse("{name: lcc, " + keys + "}", "test"),
                    {.backbone = testing::tiny_llama(), .head_ids = {}, .seed = 0});
  };
  expect_error(ErrorKind::kUsage, "compressor.lambda: wrong value (found 'much'",
               [&] { make("lambda: much"); });
  expect_error(ErrorKind::kUsage, "nothing to learn from", [&] { make("lambda: 0, recon: {loss: none}"); });
  expect_error(ErrorKind::kUsage, "no input embeddings", [&] { make("optimise: kv, artifact: embeds"); });
  expect_error(ErrorKind::kUsage, "no input embeddings", [&] { make("optimise: snapkv, artifact: embeds"); });
  expect_error(ErrorKind::kUsage, "int8 is for keys and values",
               [&] { make("artifact: embeds, storage: int8"); });
  expect_error(ErrorKind::kUsage, "embeds cannot chain segments",
               [&] { make("artifact: embeds, segments: chained"); });
  expect_error(ErrorKind::kUsage, "no buffers to start",
               [&] { make("optimise: truncate, warm_start: runs/a"); });
  expect_error(ErrorKind::kUsage, "topk is for the forward KL",
               [&] { make("align_loss: mse, teacher: {store: topk}"); });
  expect_error(ErrorKind::kUsage, "lora.dropout", [&] { make("lora: {dropout: 1}"); });
  expect_error(ErrorKind::kUsage, "qproj", [&] { make("lora: {targets: [qproj]}"); });
  const auto method = make_compressor(Yaml::parse("{name: lcc}", "test"),
                                      {.backbone = testing::tiny_llama(), .head_ids = {}, .seed = 0});
  const auto backbone = Backbone::random(testing::tiny_llama(), 8);
  Context context(*backbone, {random_tokens(5, 1)});
  expect_error(ErrorKind::kUsage, "one context at a time", [&] { method->compress(context, {}); });
}

}  // namespace
}  // namespace ctxc
