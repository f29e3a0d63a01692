// The packed path against the padded one, and every switch of a forward pass against the plain computation it
// stands for.
#include "model/backbone.h"

#include <gtest/gtest.h>

#include "model/loss.h"
#include "throws.h"
#include "tiny_llama.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::ids_of;
using testing::packed_text;
using testing::random_tensor;
using testing::random_tokens;
using testing::relative_error;
using testing::tiny_llama;

constexpr double kTolerance = 2e-5;  // two orders of summation in float32

std::shared_ptr<Backbone> tiny(const BackboneOptions& options = {}) {
  return Backbone::random(tiny_llama(), 5, options);
}

std::vector<int64_t> all_states() {
  return {0, 1, 2, 3};
}

/// Rows of different lengths, packed.
PackedRows three_rows(const Backbone& backbone, const std::vector<int64_t>& lengths) {
  std::vector<Tensor> ids, positions;
  PackedRows rows;
  for (size_t row = 0; row < lengths.size(); ++row) {
    ids.push_back(ids_of(random_tokens(lengths[row], row)));
    positions.push_back(at::arange(lengths[row], at::kLong));
    rows.segments.push_back({.length = lengths[row], .mask_TS = {}, .prefix_row = -1});
  }
  rows.embeds_PD = backbone.embed(at::cat(ids));
  rows.positions_P = at::cat(positions);
  return rows;
}

TEST(Backbone, PackedEqualsPaddedOnEitherSideAndWithEitherPositions) {
  const auto backbone = tiny();
  const std::vector<int64_t> lengths = {13, 1, 7};
  const int64_t widest = 13;
  const auto packed = backbone->forward(three_rows(*backbone, lengths), {.collect = all_states()}).hidden;
  for (const bool left : {true, false}) {
    for (const bool arange : {true, false}) {
      Tensor ids_BT = at::zeros({3, widest}, at::kLong), mask_BT = at::zeros({3, widest}, at::kBool);
      for (int64_t row = 0; row < 3; ++row) {
        const int64_t start = left ? widest - lengths[row] : 0;
        ids_BT[row].narrow(0, start, lengths[row]).copy_(ids_of(random_tokens(lengths[row], row)));
        mask_BT[row].narrow(0, start, lengths[row]).fill_(true);
      }
      const Tensor positions_BT = arange ? at::arange(widest, at::kLong).expand({3, widest})
                                         : (mask_BT.to(at::kLong).cumsum(1) - 1).clamp_min(0);
      const auto padded =
          backbone->forward_padded(backbone->embed(ids_BT), mask_BT, positions_BT, {.collect = all_states()})
              .hidden;
      for (size_t state = 0; state < padded.size(); ++state) {
        EXPECT_LT(relative_error(padded[state].index({mask_BT}), packed[state]), kTolerance)
            << state << left << arange;
        EXPECT_EQ(padded[state].index({mask_BT.logical_not()}).abs().max().item<float>(), 0.0f);
      }
    }
  }
}

TEST(Backbone, CollectsOnlyWhatIsAskedInItsOrder) {
  const auto backbone = tiny();
  const PackedRows rows = three_rows(*backbone, {6, 3});
  const auto all = backbone->forward(rows, {.collect = all_states()}).hidden;
  const auto some = backbone->forward(rows, {.collect = {2, 0, 2}}).hidden;
  ASSERT_EQ(some.size(), 3u);
  EXPECT_TRUE(some[0].equal(all[2]));
  EXPECT_TRUE(some[1].equal(all[0]));
  EXPECT_TRUE(some[2].equal(all[2]));
  const auto last = backbone->forward(rows).hidden;
  ASSERT_EQ(last.size(), 1u);
  EXPECT_TRUE(last[0].equal(all[3]));
}

TEST(Backbone, TruncationEndsInTheFinalNorm) {
  const auto backbone = tiny();
  const PackedRows rows = three_rows(*backbone, {6, 3});
  const Tensor second = backbone->forward(rows, {.collect = {2}}).hidden[0];
  const auto truncated = backbone->forward(rows, {.collect = {1, 2}, .layers = 2}).hidden;
  const Tensor norm =
      second / (second.square().mean(-1, true) + 1e-5).sqrt() * backbone->weights().at("model.norm.weight");
  EXPECT_LT(relative_error(truncated[1], norm), kTolerance);
  EXPECT_TRUE(truncated[0].equal(backbone->forward(rows, {.collect = {1}}).hidden[0]));
}

TEST(Backbone, AdaptersEqualMergedWeights) {
  LlamaConfig config = tiny_llama();
  const auto plain = tiny();
  Adapters adapters(config.num_layers);
  std::vector<Tensor> deltas;
  const auto merged = tiny();
  const char* names[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                         "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (int p = 0; p < kProjections; ++p) {
      Tensor weight = merged->weights().at(fmt::format("model.layers.{}.{}.weight", layer, names[p]));
      const LoraPair pair{random_tensor({2, weight.size(1)}, 10 * layer + p).requires_grad_(),
                          random_tensor({weight.size(0), 2}, 100 + 10 * layer + p).requires_grad_(), 0.3};
      adapters.set(layer, static_cast<Projection>(p), pair);
      weight.add_(at::mm(pair.b_DR, pair.a_RD).detach() * 0.3);
    }
  }
  const Tensor with = plain->forward(three_rows(*plain, {9, 4}), {.adapters = &adapters}).hidden[0];
  const Tensor expected = merged->forward(three_rows(*merged, {9, 4})).hidden[0];
  EXPECT_LT(relative_error(with, expected), 5 * kTolerance);
  with.square().sum().backward();
  for (int64_t layer = 0; layer < config.num_layers; ++layer)
    for (int p = 0; p < kProjections; ++p) {
      const LoraPair* pair = adapters.find(layer, static_cast<Projection>(p));
      ASSERT_TRUE(pair->a_RD.grad().defined() && pair->b_DR.grad().defined());
      EXPECT_GT(pair->a_RD.grad().abs().max().item<float>(), 0);
      EXPECT_GT(pair->b_DR.grad().abs().max().item<float>(), 0);
    }
}

TEST(Backbone, PrefixKeysEqualThePlainSequence) {
  const auto backbone = tiny();
  const Tokens first = random_tokens(6, 1), second = random_tokens(5, 2);
  Tokens whole = first;
  whole.insert(whole.end(), second.begin(), second.end());
  const Tensor expected = backbone->forward(packed_text(*backbone, whole)).hidden[0].narrow(0, 6, 5);
  auto kept = backbone->forward(packed_text(*backbone, first), {.keep_kv = true}).kv;
  // Two rows of prefixes, the first one padded by rubbish in front.
  PackedRows rows = packed_text(*backbone, second, 6);
  for (KvPair& kv : kept) {
    const Tensor rubbish = random_tensor({1, 2, 2, 8}, 3);
    kv.key_BGKE = at::cat({at::cat({rubbish, kv.key_BGKE}, 2), random_tensor({1, 2, 8, 8}, 4)}, 0);
    kv.value_BGKE = at::cat({at::cat({rubbish, kv.value_BGKE}, 2), random_tensor({1, 2, 8, 8}, 5)}, 0);
  }
  rows.prefix = kept;
  rows.prefix_mask_BK = at::ones({2, 8}, at::kBool);
  rows.prefix_mask_BK[0].narrow(0, 0, 2).fill_(false);
  rows.segments[0].prefix_row = 0;
  EXPECT_LT(relative_error(backbone->forward(rows).hidden[0], expected), kTolerance);
}

TEST(Backbone, CacheEqualsRecomputation) {
  const auto backbone = tiny();
  const Tensor ids_BT = at::stack({ids_of(random_tokens(9, 1)), ids_of(random_tokens(9, 2))});
  Tensor mask_BT = at::ones({2, 9}, at::kBool);
  mask_BT[1].narrow(0, 0, 3).fill_(false);
  const Tensor positions_BT = (mask_BT.to(at::kLong).cumsum(1) - 1).clamp_min(0);
  const Tensor embeds_BTD = backbone->embed(ids_BT);
  const Tensor expected = backbone->forward_padded(embeds_BTD, mask_BT, positions_BT).hidden[0];
  KvCache cache(backbone->config(), 2, 9, at::kFloat, at::kCPU);
  std::vector<Tensor> parts;
  int64_t begin = 0;
  for (const int64_t columns : {5, 1, 3}) {
    parts.push_back(backbone
                        ->forward_padded(embeds_BTD.narrow(1, begin, columns),
                                         mask_BT.narrow(1, 0, begin + columns),
                                         positions_BT.narrow(1, begin, columns), {}, &cache)
                        .hidden[0]);
    begin += columns;
  }
  EXPECT_LT(relative_error(at::cat(parts, 1), expected), kTolerance);
  // Without a mask everything is real: row 0 alone.
  cache.keep_rows(at::zeros({1}, at::kLong));
  EXPECT_EQ(cache.view(0).key_BGKE.size(0), 1);
  expect_error(ErrorKind::kInternal, "no room", [&] {
    backbone->forward_padded(embeds_BTD.narrow(0, 0, 1), {}, positions_BT.narrow(0, 0, 1), {}, &cache);
  });
}

TEST(Backbone, CacheWithoutMaskSeesEverything) {
  const auto backbone = tiny();
  const Tensor embeds_BTD = backbone->embed(ids_of(random_tokens(6, 1)).unsqueeze(0));
  const Tensor positions_BT = at::arange(6, at::kLong).unsqueeze(0);
  const Tensor expected = backbone->forward_padded(embeds_BTD, {}, positions_BT).hidden[0];
  KvCache cache(backbone->config(), 1, 6, at::kFloat, at::kCPU);
  const Tensor first =
      backbone->forward_padded(embeds_BTD.narrow(1, 0, 2), {}, positions_BT.narrow(1, 0, 2), {}, &cache)
          .hidden[0];
  const Tensor second =
      backbone->forward_padded(embeds_BTD.narrow(1, 2, 3), {}, positions_BT.narrow(1, 2, 3), {}, &cache)
          .hidden[0];
  const Tensor third =
      backbone->forward_padded(embeds_BTD.narrow(1, 5, 1), {}, positions_BT.narrow(1, 5, 1), {}, &cache)
          .hidden[0];
  EXPECT_LT(relative_error(at::cat({first, second, third}, 1), expected), kTolerance);
}

/// A file's bfloat16 weights, multiplied in float32.
std::shared_ptr<Backbone> tiny_as_stored() {
  return Backbone::from_weights(tiny_llama(), tiny({.dtype = "bfloat16"})->weights(), {}, "");
}

TEST(Backbone, Bfloat16WeightsAreWidenedOnlyWhileTheyAreUsed) {
  const auto narrow = tiny_as_stored();
  for (const auto& [name, weight] : narrow->weights()) EXPECT_EQ(weight.scalar_type(), at::kBFloat16) << name;
  // The same numbers stored as float32.
  const auto wide = tiny();
  for (const auto& [name, weight] : wide->weights()) Tensor(weight).copy_(narrow->weights().at(name));
  PackedRows rows = three_rows(*narrow, {8, 5}), same = three_rows(*wide, {8, 5});
  rows.embeds_PD = rows.embeds_PD.detach().requires_grad_();
  same.embeds_PD = same.embeds_PD.detach().requires_grad_();
  const Tensor hidden = narrow->forward(rows).hidden[0], expected = wide->forward(same).hidden[0];
  EXPECT_EQ(hidden.scalar_type(), at::kFloat);
  EXPECT_LT(relative_error(hidden, expected), kTolerance);
  EXPECT_LT(relative_error(narrow->logits(hidden), wide->logits(expected)), kTolerance);
  narrow->logits(hidden).square().sum().backward();
  wide->logits(expected).square().sum().backward();
  EXPECT_LT(relative_error(rows.embeds_PD.grad(), same.embeds_PD.grad()), 10 * kTolerance);
}

TEST(Backbone, Bfloat16ProductsStayNearFloat32Ones) {
  // Rounding every product's input to 8 bits of mantissa: 0.4 % each, some more after a few layers.
  const double tolerance = 0.03;
  const auto fast = tiny({.dtype = "bfloat16"}), exact = tiny_as_stored();
  PackedRows rows = three_rows(*fast, {8, 5}), same = three_rows(*exact, {8, 5});
  rows.embeds_PD = rows.embeds_PD.detach().requires_grad_();
  same.embeds_PD = same.embeds_PD.detach().requires_grad_();
  const Tensor hidden = fast->forward(rows).hidden[0], expected = exact->forward(same).hidden[0];
  EXPECT_EQ(hidden.scalar_type(), at::kFloat);
  EXPECT_EQ(fast->logits(hidden).scalar_type(), at::kFloat);
  EXPECT_LT(relative_error(hidden, expected), tolerance);
  EXPECT_EQ(hidden.equal(expected), !cpu_multiplies_bfloat16());
  fast->logits(hidden).square().sum().backward();
  exact->logits(expected).square().sum().backward();
  EXPECT_LT(relative_error(rows.embeds_PD.grad(), same.embeds_PD.grad()), 2 * tolerance);
}

TEST(Backbone, TheLossMultipliesInTheProductsType) {
  const auto fast = tiny({.dtype = "bfloat16"}), exact = tiny_as_stored();
  EXPECT_EQ(fast->head_VD().scalar_type() == at::kBFloat16, cpu_multiplies_bfloat16());
  EXPECT_EQ(exact->head_VD().scalar_type(), at::kFloat);
  const Tensor target_M = at::arange(13, at::kLong) * 3 % exact->config().vocab_size;
  const Tensor hidden_MD = random_tensor({13, exact->config().hidden_size}, 7);
  std::vector<Tensor> losses, grads;
  for (const auto& backbone : {fast, exact}) {
    const Tensor input_MD = hidden_MD.clone().requires_grad_();
    losses.push_back(chunked_cross_entropy(input_MD, backbone->head_VD(), target_M, /*chunk=*/5));
    losses.back().backward();
    grads.push_back(input_MD.grad());
    EXPECT_EQ(losses.back().scalar_type(), at::kFloat);
    EXPECT_EQ(grads.back().scalar_type(), at::kFloat);
  }
  EXPECT_LT(relative_error(losses[0], losses[1]), 0.01);
  EXPECT_LT(relative_error(grads[0], grads[1]), 0.03);
}

TEST(Backbone, FrozenWeightsMakeNoGraphAndTrainableOnesGetGradients) {
  const auto frozen = tiny();
  EXPECT_FALSE(frozen->forward(three_rows(*frozen, {4, 2})).hidden[0].requires_grad());
  const auto trained = tiny({.trainable = true});
  trained->logits(trained->forward(three_rows(*trained, {4, 2})).hidden[0]).square().mean().backward();
  for (const auto& [name, weight] : trained->weights()) {
    ASSERT_TRUE(weight.is_leaf() && weight.grad().defined()) << name;
    EXPECT_GT(weight.grad().abs().max().item<float>(), 0) << name;
  }
}

TEST(Backbone, RandomWeightsDependOnTheSeedAlone) {
  EXPECT_TRUE(tiny()->head_VD().equal(tiny()->head_VD()));
  EXPECT_FALSE(tiny()->head_VD().equal(Backbone::random(tiny_llama(), 6)->head_VD()));
  EXPECT_NEAR(tiny()->head_VD().std().item<double>(), 0.2, 0.01);
}

TEST(Backbone, NamesWhatItCannotDo) {
  const auto backbone = tiny();
  const PackedRows rows = three_rows(*backbone, {4});
  expect_error(ErrorKind::kUsage, "found 4, expected 0 to 3",
               [&] { backbone->forward(rows, {.collect = {4}}); });
  expect_error(ErrorKind::kUsage, "found 4, expected at most 3",
               [&] { backbone->forward(rows, {.layers = 4}); });
  expect_error(ErrorKind::kInput, "found 96, expected 0 to 95",
               [&] { backbone->embed(at::tensor({96}, at::kLong)); });
  expect_error(ErrorKind::kInput, "found -1", [&] { backbone->embed(at::tensor({-1}, at::kLong)); });
  expect_error(ErrorKind::kUsage, "found 'float8'", [&] { tiny({.dtype = "float8"}); });
  PackedRows short_rows = rows;
  short_rows.segments[0].length = 3;
  expect_error(ErrorKind::kInternal, "found 3 of 4 tokens", [&] { backbone->forward(short_rows); });
  PackedRows wrong_mask = rows;
  wrong_mask.segments[0].mask_TS = at::ones({4, 5}, at::kBool);
  expect_error(ErrorKind::kInternal, "expected [4, 4]", [&] { backbone->forward(wrong_mask); });
  PackedRows short_prefix = rows;
  short_prefix.prefix = {{at::zeros({1, 2, 1, 8}), at::zeros({1, 2, 1, 8})}};
  expect_error(ErrorKind::kInternal, "found 1, expected 3", [&] { backbone->forward(short_prefix); });
  expect_error(ErrorKind::kInternal, "expected [1, 4]", [&] {
    backbone->forward_padded(rows.embeds_PD.unsqueeze(0), at::ones({1, 5}, at::kBool),
                             rows.positions_P.unsqueeze(0));
  });
}

}  // namespace
}  // namespace ctxc
