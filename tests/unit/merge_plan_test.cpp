// Clustering, multi-scale paths and the contrastive term of `progressive` (progressive.md section 9).
#include "model/blocks/merge_plan.h"

#include <cmath>
#include <numeric>

#include "model/blocks/contrast.h"
#include "model/blocks/scale_path.h"
#include "tiny_llama.h"

namespace ctxc {
namespace {

using testing::random_tensor;

Places places_of(const std::vector<int64_t>& lengths, int64_t columns) {
  const int64_t batch = static_cast<int64_t>(lengths.size());
  const Tensor column = at::arange(columns, at::kFloat).expand({batch, columns});
  const Tensor length = at::tensor(lengths, at::kLong).unsqueeze(1);
  const Tensor mask = column < length;
  return {column.contiguous(), mask, mask.to(at::kFloat)};
}

TEST(GreedyPairs, FindsExactlyTheAskedNumberOfDisjointNeighbours) {
  for (int64_t n = 2; n <= 200; ++n) {
    CounterRng rng(3, "similarity", 0, static_cast<uint64_t>(n));
    std::vector<float> similarity;
    for (int64_t i = 0; i + 1 < n; ++i) similarity.push_back(static_cast<float>(rng.uniform()));
    std::vector<bool> free(static_cast<size_t>(n), true);
    const int64_t merges = n - next_length(n, 1);
    const auto pairs = greedy_pairs(similarity, merges, free);
    ASSERT_EQ(static_cast<int64_t>(pairs.size()), merges) << n;
    for (size_t i = 1; i < pairs.size(); ++i) EXPECT_GE(pairs[i], pairs[i - 1] + 2) << n;
    EXPECT_EQ(std::count(free.begin(), free.end(), false), 2 * merges);
  }
}

TEST(GreedyPairs, TiesGoToTheLowerIndex) {
  std::vector<bool> free(6, true);
  EXPECT_EQ(greedy_pairs(std::vector<float>(5, 1.0F), 2, free), (std::vector<int64_t>{0, 2}));
}

TEST(ClusterLevels, TheMildScheduleOfThePage) {
  std::vector<int64_t> rows{512};
  while (rows.back() > 128) rows.push_back(next_length(rows.back(), 128));
  EXPECT_EQ(rows, (std::vector<int64_t>{512, 384, 288, 216, 162, 128}));
  EXPECT_EQ(cluster_levels(512, 4), 5);
  EXPECT_EQ(cluster_levels(512, 16), 10);
}

TEST(ClusterPlan, IdenticalNeighboursAmongOrthogonalOnesAreMergedFirst) {
  // Rows 4 and 5 are the same; all others are orthogonal to each other.
  Tensor key = at::eye(8, at::kFloat).index_select(0, at::tensor({0, 1, 2, 3, 4, 4, 5, 6}, at::kLong));
  for (const Reduce reduce : {Reduce::kCluster, Reduce::kGlobal}) {
    const MergePlan plan = cluster_plan(reduce, key.unsqueeze(0), places_of({8}, 8), {8}, {7}, 0.05);
    ASSERT_EQ(plan.lengths, std::vector<int64_t>{7});
    EXPECT_TRUE(at::equal(plan.member_BK2[0][4], at::tensor({4, 5}, at::kLong)));
    EXPECT_EQ(plan.merged_BK.sum().item<int64_t>(), 1);
  }
}

TEST(ClusterPlan, LargeClustersPayForTheirSize) {
  const Tensor key = at::ones({1, 4, 2});
  Places places = places_of({4}, 4);
  places.size = at::tensor({8.0F, 8.0F, 1.0F, 1.0F}).unsqueeze(0);
  const MergePlan plan = cluster_plan(Reduce::kCluster, key, places, {4}, {3}, 0.05);
  EXPECT_TRUE(at::equal(plan.member_BK2[0][2], at::tensor({2, 3}, at::kLong)));
}

class ScalePaths : public ::testing::TestWithParam<Reduce> {
 protected:
  static ScaleOptions options(int64_t ratio, Pool pool = Pool::kConcat) {
    return {.width = 16,
            .heads = 2,
            .longest = 64,
            .ratio = ratio,
            .window = 8,
            .reduce = GetParam(),
            .pool = pool,
            .code = PositionCode::kRope};
  }
};

TEST_P(ScalePaths, EveryLengthGivesItsSlotsAndKeepsSizesAndPositions) {
  const at::NoGradGuard no_grad;
  for (const int64_t ratio : {2, 4, 8, 16, 32}) {
    ScaleOptions longer = options(ratio);
    longer.longest = 96;
    const ScaleDown path(longer, 1, "down");
    for (int64_t n = 1; n <= 70; ++n) {
      const Tensor x = random_tensor({1, n, 16}, static_cast<uint64_t>(n));
      const auto result = path.forward(x, places_of({n}, n), {n}, ratio, {});
      const int64_t slots = (n + ratio - 1) / ratio;
      ASSERT_EQ(result.lengths, std::vector<int64_t>{slots}) << n << " at " << ratio;
      const Places& latents = result.latents();
      EXPECT_EQ(latents.mask.sum().item<int64_t>(), slots);
      EXPECT_EQ(latents.size.sum().item<double>(), static_cast<double>(n));
      const Tensor steps = latents.position[0].slice(0, 1) - latents.position[0].slice(0, 0, slots - 1);
      EXPECT_TRUE(steps.ge(GetParam() == Reduce::kGlobal ? 0 : 0.5).all().item<bool>());
      // The place of a latent is the exact mean place of its tokens, and its size their number.
      const Tensor latent = result.latent_of_token()[0];
      const Tensor count = at::zeros({slots}).index_add(0, latent, at::ones({n}));
      const Tensor mean = at::zeros({slots}).index_add(0, latent, at::arange(n, at::kFloat)) / count;
      EXPECT_TRUE(at::allclose(count, latents.size[0]));
      EXPECT_TRUE(at::allclose(mean, latents.position[0], 1e-5, 1e-3)) << n << " at " << ratio;
    }
  }
}

TEST_P(ScalePaths, NeitherPaddingNorCompanyChangeARow) {
  const at::NoGradGuard no_grad;
  const ScaleDown down(options(4), 1, "down");
  const ScaleUp up(options(4), 2, "up");
  const Tensor x = random_tensor({2, 64, 16}, 5);
  const auto both = down.forward(x, places_of({23, 64}, 64), {23, 64}, 4, {});
  const auto alone = down.forward(x.slice(0, 0, 1).slice(1, 0, 23), places_of({23}, 23), {23}, 4, {});
  EXPECT_TRUE(at::allclose(both.x_BKD[0].slice(0, 0, 6), alone.x_BKD[0], 1e-4, 1e-5));
  const Tensor again = up.forward(both.x_BKD, both), single = up.forward(alone.x_BKD, alone);
  ASSERT_EQ(again.size(1), 64);
  EXPECT_TRUE(at::allclose(again[0].slice(0, 0, 23), single[0], 1e-4, 1e-5));
}

TEST_P(ScalePaths, TheChoiceCarriesNoGradientAndTheMergeDoes) {
  const ScaleDown down(options(4), 1, "down");
  const Tensor x = random_tensor({1, 32, 16}, 6).requires_grad_();
  const auto result = down.forward(x, places_of({32}, 32), {32}, 4, {});
  result.x_BKD.square().sum().backward();
  EXPECT_GT(x.grad().abs().sum(2).min().item<double>(), 0) << "a token that reaches no latent";
}

INSTANTIATE_TEST_SUITE_P(Reductions, ScalePaths,
                         ::testing::Values(Reduce::kCluster, Reduce::kWindow, Reduce::kGlobal),
                         [](const auto& info) {
                           return info.param == Reduce::kCluster  ? "cluster"
                                  : info.param == Reduce::kWindow ? "window"
                                                                  : "global";
                         });

Tensor on_sphere(const Tensor& rows) {
  return rows / rows.norm(2, 1, true);
}
Tensor normal(at::IntArrayRef shape, uint64_t index) {
  Tensor values = at::empty(shape, at::kFloat);
  CounterRng rng(17, "contrast", 0, index);
  for (int64_t i = 0; i < values.numel(); ++i)
    values.mutable_data_ptr<float>()[i] = static_cast<float>(rng.normal());
  return values;
}
/// `count` anchors of one sample each, far apart, and `queued` earlier pairs.
ContrastPairs random_pairs(int64_t count, int64_t queued, int64_t width) {
  return {.a_NE = on_sphere(normal({count, width}, 1)),
          .b_NE = on_sphere(normal({count, width}, 2)),
          .sample_N = at::arange(count, at::kLong),
          .position_N = at::zeros({count}),
          .queue_a_QE = on_sphere(normal({queued, width}, 3)),
          .queue_b_QE = on_sphere(normal({queued, width}, 4))};
}

TEST(InfoNce, KnownValues) {
  const double negatives = 64 + 256 - 1;
  // Nothing to tell apart: temperature 100, or a width at which random directions are orthogonal.
  const auto flat = info_nce(random_pairs(64, 256, 128), at::full({1}, 0.01), 1);
  EXPECT_NEAR(flat.loss.item<double>(), std::log(1 + negatives), 0.05);
  EXPECT_EQ(flat.negatives, negatives);
  // So many pairs that their mean cosine, of deviation 1 / sqrt(256 d), is small beside the tolerance too.
  const auto wide = info_nce(random_pairs(256, 256, 4096), at::full({1}, 1 / 0.07), 1);
  EXPECT_NEAR(wide.loss.item<double>(), std::log(256 + 256), 0.05);
  // Equal pairs among orthogonal ones.
  ContrastPairs equal = random_pairs(32, 0, 64);
  equal.a_NE = equal.b_NE = at::eye(64, at::kFloat).slice(0, 0, 32);
  EXPECT_NEAR(info_nce(equal, at::full({1}, 1 / 0.07), 1).loss.item<double>(), 0, 1e-4);
}

TEST(InfoNce, TheOrderOfTheBatchDoesNotMatter) {
  ContrastPairs pairs = random_pairs(24, 8, 32);
  pairs.sample_N = at::arange(24, at::kLong).div(6, "floor");
  pairs.position_N = at::arange(24, at::kFloat).remainder(6) * 10;
  const Tensor order = at::randperm(24, at::kLong);
  ContrastPairs shuffled = pairs;
  for (Tensor* rows : {&shuffled.a_NE, &shuffled.b_NE, &shuffled.sample_N, &shuffled.position_N})
    *rows = rows->index_select(0, order);
  EXPECT_NEAR(info_nce(pairs, at::full({1}, 10.0), 16).loss.item<double>(),
              info_nce(shuffled, at::full({1}, 10.0), 16).loss.item<double>(), 1e-5);
}

TEST(InfoNce, CountsTheQueueOtherSamplesAndFarLatents) {
  ContrastPairs pairs = random_pairs(24, 16, 32);
  pairs.sample_N = at::zeros({24}, at::kLong);
  pairs.sample_N[22] = 1;
  pairs.position_N[23] = 1000;
  // Rows 0 to 21 have the queue and the last two rows; those two have the queue and all others.
  EXPECT_NEAR(info_nce(pairs, at::full({1}, 10.0), 16).negatives, (22 * 18 + 2 * 39) / 24.0, 1e-4);
}

TEST(InfoNce, ExcludedNeighboursGetNoGradient) {
  // Two anchors near each other: with a queue each has enough negatives, and neither sees the other.
  ContrastPairs pairs = random_pairs(2, 20, 32);
  pairs.sample_N = at::zeros({2}, at::kLong);
  pairs.a_NE.requires_grad_();
  const Tensor before = info_nce(pairs, at::full({1}, 10.0), 16).loss;
  before.backward();
  const Tensor grad = pairs.a_NE.grad().clone();
  ContrastPairs other = pairs;
  other.a_NE = pairs.a_NE.detach().clone();
  other.b_NE = pairs.b_NE.clone();
  other.a_NE[1] = on_sphere(normal({1, 32}, 9))[0];
  other.b_NE[1] = on_sphere(normal({1, 32}, 10))[0];
  other.a_NE.requires_grad_();
  info_nce(other, at::full({1}, 10.0), 16).loss.backward();
  EXPECT_TRUE(at::allclose(other.a_NE.grad()[0], grad[0], 1e-6, 1e-7));
}

TEST(InfoNce, TooFewNegativesGiveNoTerm) {
  EXPECT_FALSE(info_nce(random_pairs(16, 0, 32), at::full({1}, 10.0), 1).loss.defined());
  EXPECT_TRUE(info_nce(random_pairs(17, 0, 32), at::full({1}, 10.0), 1).loss.defined());
}

TEST(ContrastQueue, KeepsTheLastPairsInOrder) {
  ContrastQueue queue(4, 2);
  EXPECT_EQ(queue.a().size(0), 0);
  queue.push(at::ones({3, 2}), at::zeros({3, 2}));
  EXPECT_EQ(queue.a().size(0), 3);
  queue.push(at::arange(6, at::kFloat).view({3, 2}), at::zeros({3, 2}));
  const Tensor expected = at::tensor({1.0F, 1.0F, 0.0F, 1.0F, 2.0F, 3.0F, 4.0F, 5.0F}).view({4, 2});
  EXPECT_TRUE(at::equal(queue.a(), expected));
  queue.push(at::full({9, 2}, 7.0), at::zeros({9, 2}));
  EXPECT_TRUE(at::equal(queue.a(), at::full({4, 2}, 7.0)));
}

/// Positions that are all moved give the same rows; stretched ones do not, where there is a position code.
TEST_P(ScalePaths, OnlyDifferencesOfPositionsMatter) {
  const at::NoGradGuard no_grad;
  const Tensor x = random_tensor({1, 61, 16}, 7);
  for (const PositionCode code : {PositionCode::kRope, PositionCode::kAlibi}) {
    ScaleOptions own = options(4);
    own.code = code;
    own.reads_buffer = false;  // the buffer stands at a place of its own
    const ScaleDown path(own, 1, "down");
    const auto rows = [&](double first, double stride) {
      Places places = places_of({61}, 61);
      places.position = places.position * stride + first;
      return path.forward(x, places, {61}, 4, {}).x_BKD;
    };
    EXPECT_TRUE(at::allclose(rows(300, 1), rows(0, 1), 1e-4, 1e-4));
    EXPECT_FALSE(at::allclose(rows(0, 1.5), rows(0, 1), 1e-3, 1e-3));
  }
}

}  // namespace
}  // namespace ctxc
