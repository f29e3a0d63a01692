// What the slots of the diffusion-noise compressor are: how many, where they stand, what they start as
// (diffusion.md sections 5, 9 and 12).
#include <bit>
#include <cmath>

#include "model/compressor.h"
#include "small_diffusion.h"
#include "testing.h"

namespace ctxc {
namespace {

using testing::compress;
using testing::method;
using testing::random_tokens;
using testing::slots_of;
using testing::small_backbone;
using testing::stir;
using testing::worst;

TEST(DiffusionSlots, SpreadSlotsStandWhereTheirTextStood) {
  const auto compressor = method(", slot_positions: spread");
  const Memory memory = compress(*compressor, {random_tokens(38, 1)}).memory;
  for (int64_t k = 0; k < 9; ++k)
    EXPECT_EQ(memory.position_BK[0][k].item<int64_t>(), 1 + 4 * k + 2);  // round(1.5)
  EXPECT_EQ(memory.position_BK[0][9].item<int64_t>(), 1 + 36);           // mean of 36, 37 rounds to even
  EXPECT_EQ(memory.next_position_B[0].item<int64_t>(), 39);
  EXPECT_EQ(compress(*method(", sink: false"), {random_tokens(8, 1)}).memory.head_ids_BP.size(1), 0);
}

TEST(DiffusionSlots, StartsAtTheSizeOfEmbeddings) {
  const Tensor made = slots_of(compress(*method(), {random_tokens(32, 1)}).memory, 0);
  const double expected =
      small_backbone()->weights().at("model.embed_tokens.weight").square().mean().sqrt().item<double>();
  EXPECT_NEAR(made.square().mean().sqrt().item<double>() / expected, 1, 0.25);
}

TEST(DiffusionSlots, PcaStartsNearTheMeanOrTheFirstEmbedding) {
  const Tensor table = small_backbone()->weights().at("model.embed_tokens.weight");
  const Tokens context = random_tokens(32, 4);
  const Tensor windows = small_backbone()->embed(testing::ids_of(context)).view({8, 4, -1});
  const auto closeness = [&](const char* init, const Tensor& expected) {
    const std::string text = fmt::format(
        "{{name: diffusion, ratio: 4, chunk: 32, width: 32, heads: 2, latent_width: 32, layers: embedding, "
        "rho: 0.5, init: {}}}",
        init);
    const auto compressor = make_compressor(
        Yaml::parse(text, "test"),
        {.backbone = testing::tiny_llama(), .head_ids = {1}, .seed = 5, .embedding_VD = table});
    const Tensor made = slots_of(compress(*compressor, {context}).memory, 0);
    return at::cosine_similarity(made, expected, 1).mean().item<double>();
  };
  EXPECT_GT(closeness("pca", windows.mean(1)), 0.8);
  EXPECT_GT(closeness("pca_first", windows.select(1, 0)), 0.8);
  EXPECT_LT(closeness("pca", windows.select(1, 0)), 0.8);
  EXPECT_LT(closeness("random", windows.mean(1)), 0.5);
}

TEST(DiffusionSlots, AResidualIsTheFirstEmbeddingAsFarAsTheChannelLetsItThrough) {
  const Tokens text = random_tokens(30, 4), other = random_tokens(30, 5);
  const auto slots_at = [&](const std::string& level, const Tokens& tokens) {
    const auto compressor = method(", init: residual, latent_width: 32" + level);
    return slots_of(compress(*compressor, {tokens}).memory, 0);
  };
  const Tensor first = small_backbone()->embed(testing::ids_of(text)).slice(0, 0, 30, 4);
  EXPECT_GT(at::cosine_similarity(slots_at("", text), first, 1).min().item<double>(), 0.9999);
  const double size = first.norm().item<double>();
  EXPECT_GT(worst(slots_at(", infer_level: 0", text), slots_at(", infer_level: 0", other)), 0.1 * size / 30);
  // At the end of the schedule next to nothing of it is left: it does not go around the channel.
  const std::string end = ", infer_level: 1000, zero_terminal_snr: true";
  EXPECT_LT(worst(slots_at(end, text), slots_at(end, other)), 1e-4 * size / 30);
}

TEST(DiffusionSlots, TheStateAloneIsOfOneSizeWhateverTheText) {
  const auto compressor = method(", slots: state_only");
  for (const auto& [tokens, vectors] :
       {std::pair{3, 1}, std::pair{13, 4}, std::pair{40, 4}, std::pair{300, 4}})
    EXPECT_EQ(compress(*compressor, {random_tokens(tokens, 1)}).memory.slots(), vectors) << tokens;
}

TEST(DiffusionSlots, LogarithmicSlotsGrowWithTheBitsOfTheNumberOfChunks) {
  const auto compressor = method(", slots: log, chunk: 8, layers: embedding");
  for (const int64_t chunks : {1, 2, 3, 4, 7, 8, 12}) {
    const int64_t slots = compress(*compressor, {random_tokens(8 * chunks, 1)}).memory.slots();
    EXPECT_EQ(slots, 2 * std::popcount(static_cast<uint64_t>(chunks))) << chunks;
  }
  for (int64_t chunks = 1; chunks <= 1000; ++chunks)
    EXPECT_LE(static_cast<double>(compressor->slots_for(8 * chunks)),
              2 * (1 + std::log2(static_cast<double>(chunks))));
}

TEST(DiffusionSlots, TheStateBesideTheLatentsIsPaidFor) {
  const auto compressor = method(", slots: latents+state, chunk: 16");
  stir(*compressor);
  const Tokens one = random_tokens(16, 1), two = random_tokens(32, 1);
  const auto read = [&](const Tokens& text) { return slots_of(compress(*compressor, {text}).memory, 0); };
  const Tensor before = read(two), alone = read(one);
  {
    const at::NoGradGuard no_grad;
    compressor->named_parameters()["state_out.weight"].mul_(2);
  }
  EXPECT_TRUE(at::equal(read(one), alone)) << "one chunk reads no state";
  const Tensor after = read(two);
  ASSERT_EQ(after.size(0), 8);  // two of the state, and four of the oldest slots merged to two
  EXPECT_GT(worst(after.slice(0, 0, 2), before.slice(0, 0, 2)), 1e-4);
  EXPECT_TRUE(at::equal(after.slice(0, 2), before.slice(0, 2)));
}

}  // namespace
}  // namespace ctxc
