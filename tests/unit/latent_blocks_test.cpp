// Attention at float positions, pooling, the gated state and the two halves of the U-Net.
#include <cmath>

#include "model/blocks/denoiser.h"
#include "model/blocks/down_path.h"
#include "model/blocks/float_rope.h"
#include "model/blocks/gated_state.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

Tensor normals(at::IntArrayRef shape, uint64_t seed) {
  return draw(shape, {Draw::Kind::kNormal, 1}, seed, "latent_blocks_test");
}
double worst(const Tensor& a, const Tensor& b) {
  return a.sizes() == b.sizes() ? (a - b).abs().max().item<double>() : 1e9;
}
/// `real` rows of `columns` at positions first, first + 1, ...
Places row_of(int64_t columns, int64_t real, double first = 0) {
  const Tensor position = at::arange(columns, at::kFloat).unsqueeze(0) + first;
  return {position, at::arange(columns).lt(real).unsqueeze(0), at::ones({1, columns}, at::kFloat)};
}

TEST(FloatRope, TurnsAndIsShiftInvariant) {
  const Tensor x = normals({1, 1, 1, 8}, 1), y = normals({1, 1, 1, 8}, 2);
  const auto product = [&](double p, double q) {
    return (float_rope(x, at::full({1, 1}, p, at::kFloat)) * float_rope(y, at::full({1, 1}, q, at::kFloat)))
        .sum()
        .item<double>();
  };
  EXPECT_NEAR(product(3.25, 1.5), product(103.25, 101.5), 1e-4);
  EXPECT_GT(std::abs(product(3.25, 1.5) - product(3.25, 1.0)), 1e-3);
  EXPECT_NEAR(float_rope(x, at::full({1, 1}, 7.3, at::kFloat)).norm().item<double>(), x.norm().item<double>(),
              1e-5);
}

TEST(FloatRope, IntegratedFormIsTheMeanOverThePosition) {
  const int64_t draws = 200000;
  const Tensor x = normals({1, 1, 1, 8}, 1);
  for (const double sigma : {0.5, 3.0}) {
    const Tensor position = at::full({1, draws}, 2.5, at::kFloat) + sigma * normals({1, draws}, 3);
    const Tensor mean = float_rope(x.expand({1, draws, 1, 8}), position).mean(1, true);
    const Tensor variance = at::full({1, 1}, sigma * sigma, at::kFloat);
    EXPECT_LT(worst(float_rope(x, at::full({1, 1}, 2.5, at::kFloat), variance), mean), 1e-2);
  }
  const Tensor where = at::full({1, 1}, 2.5, at::kFloat);
  EXPECT_LT(worst(float_rope(x, where, at::zeros({1, 1})), float_rope(x, where)), 1e-7);
}

TEST(FloatRope, CommutesWithTheForwardProcess) {
  const Tensor clean = normals({1, 4, 2, 8}, 1), eps = normals({1, 4, 2, 8}, 2);
  const Tensor where = at::arange(4, at::kFloat).unsqueeze(0) * 1.7;
  const Tensor noised = std::sqrt(0.3) * clean + std::sqrt(0.7) * eps;
  const Tensor turned = std::sqrt(0.3) * float_rope(clean, where) + std::sqrt(0.7) * float_rope(eps, where);
  EXPECT_LT(worst(float_rope(noised, where), turned), 1e-5);
}

TEST(LocalAttention, BlocksEqualTheDenseForm) {
  MultiHeadAttention attention(16, 2, 1, "test");
  const Tensor x = normals({1, 45, 16}, 1);
  const Places places = row_of(45, 41);
  for (const PositionCode code : {PositionCode::kRope, PositionCode::kAlibi, PositionCode::kNone}) {
    const Tensor blocks = attention.self(x, places, {.code = code, .window = 8, .block = 8});
    const Tensor dense = attention.self(x, places, {.code = code, .window = 8, .block = 0});
    EXPECT_LT(worst(blocks, dense), 1e-5);
    EXPECT_EQ(blocks.slice(1, 41).abs().max().item<double>(), 0);  // padded queries give zeros
  }
}

TEST(LocalAttention, PositionsCountByDifferenceAlone) {
  MultiHeadAttention attention(16, 2, 1, "test");
  const Tensor x = normals({1, 20, 16}, 1);
  for (const PositionCode code : {PositionCode::kRope, PositionCode::kAlibi}) {
    const AttentionRule rule{.code = code, .window = 6};
    EXPECT_LT(worst(attention.self(x, row_of(20, 20), rule), attention.self(x, row_of(20, 20, 300), rule)),
              1e-4);
    const Places stretched{row_of(20, 20).position * 1.5, row_of(20, 20).mask};
    EXPECT_GT(worst(attention.self(x, row_of(20, 20), rule), attention.self(x, stretched, rule)), 1e-3);
  }
}

TEST(LocalAttention, SeesItsWindowAndNoPadding) {
  MultiHeadAttention attention(16, 2, 1, "test");
  const AttentionRule rule{.window = 4};
  const Tensor x = normals({1, 20, 16}, 1);
  Tensor far = x.clone();
  far[0].slice(0, 9).fill_(7);
  EXPECT_TRUE(at::equal(attention.self(x, row_of(20, 20), rule)[0][4],
                        attention.self(far, row_of(20, 20), rule)[0][4]));
  EXPECT_LT(worst(attention.self(x.slice(1, 0, 7), row_of(7, 7), rule),
                  attention.self(far, row_of(20, 7), rule).slice(1, 0, 7)),
            1e-6);
}

TEST(LocalAttention, ARowWithoutKeysGivesZerosAndFiniteGradients) {
  MultiHeadAttention attention(16, 2, 1, "test");
  const Tensor x = normals({2, 6, 16}, 1).requires_grad_();
  Places places = row_of(6, 6);
  places = {places.position.expand({2, 6}), at::stack({places.mask[0], at::zeros({6}, at::kBool)}), {}};
  const Tensor out = attention.self(x, places, {.window = 4});
  EXPECT_EQ(out[1].abs().max().item<double>(), 0);
  out.sum().backward();
  EXPECT_TRUE(x.grad().isfinite().all().item<bool>());
  EXPECT_EQ(x.grad()[1].abs().max().item<double>(), 0);
}

TEST(LocalAttention, ProportionalAttentionCountsTokens) {
  MultiHeadAttention attention(16, 2, 1, "test");
  // A key of size 2 weighs as much as the same key twice.
  const Tensor q = normals({1, 1, 16}, 1), k = normals({1, 2, 16}, 2);
  const Places query = row_of(1, 1);
  const AttentionRule rule{.code = PositionCode::kNone, .proportional = true};
  const Places sized{at::zeros({1, 2}), at::ones({1, 2}, at::kBool), at::tensor({2.0F, 1.0F}).unsqueeze(0)};
  const Tensor twice = at::cat({k.slice(1, 0, 1), k}, 1);
  const Places plain{at::zeros({1, 3}), at::ones({1, 3}, at::kBool), at::ones({1, 3})};
  EXPECT_LT(
      worst(attention.forward(q, query, k, sized, rule), attention.forward(q, query, twice, plain, rule)),
      1e-5);
}

TEST(LocalAttention, RefusesOddHeads) {
  testing::expect_error(ErrorKind::kUsage, "cannot be shared", [] { MultiHeadAttention(18, 6, 1, "test"); });
}

TEST(OrderedMerge, CarriesSizesAndMeanPositions) {
  Places places = row_of(8, 5, 10);
  for (int level = 0; level < 3; ++level) places = merged_places(places);
  EXPECT_EQ(places.mask.sizes(), at::IntArrayRef({1, 1}));
  EXPECT_NEAR(places.size.item<double>(), 5, 1e-6);
  EXPECT_NEAR(places.position.item<double>(), 12, 1e-5);  // mean of 10..14
}

TEST(OrderedMerge, KnowsWhoStoodWhere) {
  const Tensor x = normals({1, 4, 16}, 1);
  Tensor swapped = x.clone();
  swapped[0][0] = x[0][1];
  swapped[0][1] = x[0][0];
  const Places places = row_of(4, 4);
  for (const Pool kind :
       {Pool::kConcat, Pool::kMean, Pool::kMeanLinear, Pool::kAttention, Pool::kRotatedAttention}) {
    PairPool pool(16, 2, kind, 1, "test");
    const double moved = worst(pool.forward(x, places), pool.forward(swapped, places));
    const bool binds = kind == Pool::kConcat || kind == Pool::kRotatedAttention;
    if (binds)
      EXPECT_GT(moved, 1e-2) << static_cast<int>(kind);
    else
      EXPECT_LT(moved, 1e-5) << static_cast<int>(kind);
  }
}

TEST(OrderedMerge, HalfFilledAndEmptyWindows) {
  const Tensor x = normals({1, 4, 16}, 1).requires_grad_();
  for (const Pool kind :
       {Pool::kConcat, Pool::kMean, Pool::kMeanLinear, Pool::kAttention, Pool::kRotatedAttention}) {
    PairPool pool(16, 2, kind, 1, "test");
    const Tensor out = pool.forward(x, row_of(4, 1));
    EXPECT_EQ(out[0][1].abs().max().item<double>(), 0) << static_cast<int>(kind);
    EXPECT_GT(out[0][0].abs().max().item<double>(), 0);
    EXPECT_LT(worst(out[0][0], pool.forward(x.slice(1, 0, 1), row_of(1, 1))[0][0]), 1e-6);
    x.mutable_grad().reset();
    out.sum().backward();
    EXPECT_TRUE(x.grad().isfinite().all().item<bool>());
    EXPECT_EQ(x.grad().slice(1, 1).abs().max().item<double>(), 0);
  }
  PairPool merge(16, 2, Pool::kConcat, 1, "test");
  const Tensor left = merge.named_parameters()["left.weight"];
  EXPECT_LT(worst(merge.forward(x, row_of(4, 1))[0][0], at::linear(unit_rms(x[0][0]), left)), 1e-6);
}

TEST(GatedState, MovesSlowlyAndOnlyWhereThereIsText) {
  GatedState state(3, 16, 2, 1, "test");
  const Tensor start = state.start(2), y = normals({2, 5, 16}, 1);
  Places places = row_of(5, 5, -4);
  places = {places.position.expand({2, 5}), at::stack({places.mask[0], at::zeros({5}, at::kBool)}), {}};
  const Tensor next = state.update(start, y, places, {});
  EXPECT_EQ(next.sizes(), at::IntArrayRef({2, 3, 16}));
  EXPECT_GT(worst(next[0], start[0]), 1e-2);
  EXPECT_TRUE(at::equal(next[1], start[1]));
  Tensor carried = start;
  for (int chunk = 0; chunk < 1000; ++chunk)
    carried = state.update(carried, normals({2, 5, 16}, 2), places, {});
  const double rms = carried[0].square().mean().sqrt().item<double>();
  EXPECT_GT(rms, 0.05);
  EXPECT_LT(rms, 20);
}

PathOptions path() {
  return {.width = 16, .heads = 2, .levels = 2, .window = 8};
}

TEST(DownPath, PaddingChangesNothingAndSizesAreExact) {
  DownPath down(path(), 1, "test");
  const Tensor x = normals({1, 48, 16}, 1);
  const Places places = row_of(48, 11);
  const Tensor clean = x * places.mask.to(at::kFloat).unsqueeze(-1);
  const auto wide = down.forward(clean, places),
             narrow = down.forward(clean.slice(1, 0, 12), places.slice(0, 12));
  EXPECT_LT(worst(wide.x_BKD.slice(1, 0, 3), narrow.x_BKD), 1e-5);
  EXPECT_EQ(wide.places.back().mask.sum().item<int64_t>(), 3);
  EXPECT_NEAR(wide.places.back().position[0][2].item<double>(), 9, 1e-5);  // mean of 8, 9, 10
  EXPECT_EQ(wide.places.back().size.sum().item<double>(), 11);
  EXPECT_EQ(wide.places.size(), 3u);
}

TEST(DownPath, NearMeanStartsAsAMean) {
  PathOptions options = path();
  options.start = PathStart::kMean;
  DownPath down(options, 1, "test");
  const Tensor x = normals({1, 8, 16}, 1);
  const Tensor mean = unit_rms(x).view({1, 4, 2, 16}).mean(2);
  const Tensor expected = unit_rms(mean).view({1, 2, 2, 16}).mean(2);
  EXPECT_GT(at::cosine_similarity(down.forward(x, row_of(8, 8)).x_BKD, expected, -1).min().item<double>(),
            0.9);
}

TEST(DownPath, NearFirstStartsAsTheFirstMember) {
  PathOptions options = path();
  options.start = PathStart::kFirst;
  DownPath down(options, 1, "test");
  const Tensor x = normals({1, 7, 16}, 1);  // the last window has three members
  const Tensor expected = x.slice(1, 0, 7, 4);
  EXPECT_GT(at::cosine_similarity(down.forward(x, row_of(7, 7)).x_BKD, expected, -1).min().item<double>(),
            0.9);
}

TEST(UpPath, ComesBackToTheTokens) {
  DownPath down(path(), 1, "down");
  UpPath up(path(), 6, 1, "up");
  const auto result = down.forward(normals({1, 12, 16}, 1), row_of(12, 10));
  const Tensor back = up.forward(normals({1, 3, 6}, 2), result.places);
  EXPECT_EQ(back.sizes(), at::IntArrayRef({1, 12, 16}));
  const Tensor target = normals({1, 12, 16}, 3);
  const Tensor mask = row_of(12, 10).mask;
  EXPECT_NEAR(cosine_distance(target * 3, target, mask).first.item<double>(), 0, 1e-5);
  EXPECT_NEAR(cosine_distance(-target, target, mask).first.item<double>(), 2, 1e-5);
  EXPECT_EQ(cosine_distance(back, target, mask).second, 10);
}

DenoiserOptions denoiser_options(bool flat) {
  DenoiserOptions options;
  options.width = 16;
  options.latent_width = 8;
  options.heads = 2;
  options.state = 3;
  options.flat = flat;
  options.spread = 4;
  return options;
}

TEST(Denoiser, StartsAtZeroVelocityAndIgnoresPadding) {
  for (const bool flat : {false, true}) {
    Denoiser denoiser(denoiser_options(flat), 1, "test");
    const Tensor z = normals({1, 7, 8}, 1), lam = normals({1, 7}, 2);
    DenoiserView view{.places = row_of(7, 5, -4), .state_BMD = denoiser.state()->start(1)};
    const auto wide = denoiser.forward(z, at::zeros_like(z), lam, view);
    EXPECT_EQ(wide.predicted_BKZ.abs().max().item<double>(), 0);
    DenoiserView cut{.places = view.places.slice(0, 5), .state_BMD = view.state_BMD};
    const auto narrow = denoiser.forward(z.slice(1, 0, 5), at::zeros({1, 5, 8}), lam.slice(1, 0, 5), cut);
    EXPECT_LT(worst(wide.features_BKD.slice(1, 0, 5), narrow.features_BKD), 1e-5);
    EXPECT_LT(worst(wide.state_BMD, narrow.state_BMD), 1e-5);
    EXPECT_GT(worst(wide.state_BMD, view.state_BMD), 1e-3);
  }
}

TEST(Denoiser, ConditionIsItsLevelUnlessTold) {
  for (const bool constant : {false, true}) {
    DenoiserOptions options = denoiser_options(false);
    options.integrated = false;
    if (constant) options.fixed_log_snr = 3;
    Denoiser denoiser(options, 1, "test");
    {
      const at::NoGradGuard no_grad;  // open the zero-initialised heads
      for (auto& item : denoiser.named_parameters())
        if (item.key().find("condition") != std::string::npos) item.value().add_(0.05);
    }
    const Tensor z = normals({1, 4, 8}, 1);
    const DenoiserView view{.places = row_of(4, 4, -3), .state_BMD = denoiser.state()->start(1)};
    const auto at_level = [&](double lam) {
      return denoiser.forward(z, at::zeros_like(z), at::full({1, 4}, lam, at::kFloat), view).features_BKD;
    };
    if (constant)
      EXPECT_TRUE(at::equal(at_level(-1), at_level(2)));
    else
      EXPECT_GT(worst(at_level(-1), at_level(2)), 1e-4);
  }
}

/// Integrated RoPE: a product of q and k knows the distance and both uncertainties, and not the place.
TEST(FloatRope, IntegratedFormIsShiftInvariant) {
  const Tensor q = normals({1, 1, 1, 8}, 1), k = normals({1, 1, 1, 8}, 2);
  const auto at_place = [](double value) { return at::full({1, 1}, value, at::kFloat); };
  const auto product = [&](double p, double p_sigma, double r, double r_sigma) {
    const Tensor turned_q = float_rope(q, at_place(p), at_place(p_sigma * p_sigma)),
                 turned_k = float_rope(k, at_place(r), at_place(r_sigma * r_sigma));
    return (turned_q * turned_k).sum().item<double>();
  };
  for (const auto& [a, b] : {std::pair{0.0, 1.2}, std::pair{1.2, 2.0}, std::pair{3.0, 3.0}}) {
    EXPECT_NEAR(product(3.25, a, 1.5, b), product(103.25, a, 101.5, b), 1e-4);
    EXPECT_NEAR(product(3.25, a, 1.5, b), product(-96.75, a, -98.5, b), 1e-4);
  }
  EXPECT_GT(std::abs(product(3.25, 1.2, 1.5, 2) - product(3.25, 1.2, 1.0, 2)), 1e-3);
  EXPECT_GT(std::abs(product(3.25, 1.2, 1.5, 2) - product(3.25, 0, 1.5, 0)), 1e-3);
}

/// The same in the denoiser that uses it; without a state, which stands at a place of its own.
TEST(Denoiser, IntegratedRopeCountsByDifferenceAlone) {
  for (const bool flat : {false, true}) {
    DenoiserOptions options = denoiser_options(flat);
    options.state = 0;
    Denoiser denoiser(options, 1, "test");
    const Tensor z = normals({1, 8, 8}, 1), lam = normals({1, 8}, 2);
    const auto features = [&](double first, double stride) {
      const DenoiserView view{.places = {row_of(8, 8).position * stride + first, row_of(8, 8).mask,
                                         at::full({1, 8}, 4, at::kFloat)}};
      return denoiser.forward(z, at::zeros_like(z), lam, view).features_BKD;
    };
    EXPECT_LT(worst(features(0, 4), features(300, 4)), 1e-4) << flat;
    EXPECT_GT(worst(features(0, 4), features(0, 6)), 1e-4) << flat;
  }
}

}  // namespace
}  // namespace ctxc
