#include "core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"

namespace ctxc {
namespace {

using Block = std::array<uint32_t, 4>;

// kat_vectors of Random123 (Salmon et al.).
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Block{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}),
            (Block{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Block{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

/// Pearson's statistic of counts that should be equal.
double chi_squared(const std::vector<int64_t>& counts) {
  double total = 0, sum = 0;
  for (int64_t count : counts) total += static_cast<double>(count);
  const double expected = total / static_cast<double>(counts.size());
  for (int64_t count : counts) sum += std::pow(static_cast<double>(count) - expected, 2) / expected;
  return sum;
}

// Runs written with one version are resumed with the next: these numbers may never change.
TEST(CounterRng, NumbersStayWhatTheyAre) {
  EXPECT_EQ(hash64(""), 0xf52a15e9a9b5e89bu);
  EXPECT_EQ(hash64("noise"), 0x8960bc6da2018bd3u);
  CounterRng rng(42, "noise", 7, 3);
  EXPECT_EQ(rng.next_u64(), 0x39eec4593d84c548u);
  EXPECT_EQ(rng.below(1000), 196u);
  const KeyedPermutation order(10, 42, "epoch", 1);
  std::vector<uint64_t> values;
  for (uint64_t i = 0; i < 10; ++i) values.push_back(order[i]);
  EXPECT_EQ(values, (std::vector<uint64_t>{8, 3, 1, 2, 6, 7, 9, 5, 4, 0}));
}

TEST(CounterRng, EveryCoordinateMatters) {
  std::set<uint64_t> seen;
  const uint64_t large = uint64_t{1} << 33;
  for (uint64_t seed : {uint64_t{0}, uint64_t{1}, large})
    for (const char* stream : {"noise", "order"})
      for (uint64_t step : {uint64_t{0}, uint64_t{1}, large})
        for (uint64_t index : {uint64_t{0}, uint64_t{1}, large})
          seen.insert(CounterRng(seed, stream, step, index).next_u64());
  EXPECT_EQ(seen.size(), 3u * 2 * 3 * 3);
}

TEST(CounterRng, SameCoordinatesGiveTheSameNumbers) {
  CounterRng a(1, "x", 2, 3), b(1, "x", 2, 3);
  for (int i = 0; i < 100; ++i) ASSERT_EQ(a.next_u32(), b.next_u32());
}

TEST(CounterRng, BelowIsUniform) {
  for (uint64_t n : {2, 7, 100}) {
    std::vector<int64_t> counts(n, 0);
    CounterRng rng(5, "below", n);
    for (int i = 0; i < 100'000; ++i) ++counts.at(rng.below(n));
    // Mean n - 1, variance 2 (n - 1); four standard deviations.
    const double freedom = static_cast<double>(n - 1);
    EXPECT_LT(chi_squared(counts), freedom + 4 * std::sqrt(2 * freedom)) << n;
  }
  CounterRng rng(5, "below");
  EXPECT_EQ(rng.below(1), 0u);
  EXPECT_THROW(rng.below(0), Error);
}

// A range just above 2^63 makes nearly every second draw a rejected one; a missing rejection would favour the
// lower half.
TEST(CounterRng, BelowRejectsWhatWouldBeBiased) {
  const uint64_t n = (uint64_t{1} << 63) + (uint64_t{1} << 62);
  std::vector<int64_t> thirds(3, 0);
  CounterRng rng(6, "large");
  for (int i = 0; i < 30'000; ++i) {
    const uint64_t value = rng.below(n);
    ASSERT_LT(value, n);
    ++thirds[value / (uint64_t{1} << 62)];
  }
  EXPECT_LT(chi_squared(thirds), 2 + 4 * 2);
}

TEST(CounterRng, UniformAndNormalHaveTheirMoments) {
  CounterRng rng(7, "moments");
  const int n = 200'000;
  double sum = 0, mean = 0, square = 0, cube = 0, fourth = 0;
  for (int i = 0; i < n; ++i) {
    const double u = rng.uniform();
    ASSERT_TRUE(u >= 0 && u < 1);
    sum += u;
    const double x = rng.normal();
    mean += x, square += x * x, cube += x * x * x, fourth += x * x * x * x;
  }
  EXPECT_NEAR(sum / n, 0.5, 4 * std::sqrt(1 / 12.0 / n));
  EXPECT_NEAR(mean / n, 0, 4 * std::sqrt(1.0 / n));
  EXPECT_NEAR(square / n, 1, 4 * std::sqrt(2.0 / n));
  EXPECT_NEAR(cube / n, 0, 4 * std::sqrt(15.0 / n));
  EXPECT_NEAR(fourth / n, 3, 4 * std::sqrt(96.0 / n));
}

TEST(KeyedPermutation, IsABijection) {
  for (uint64_t size : {1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 1000, 4097}) {
    const KeyedPermutation order(size, 1, "order", 2);
    std::vector<bool> seen(size, false);
    for (uint64_t i = 0; i < size; ++i) {
      ASSERT_LT(order[i], size);
      ASSERT_FALSE(seen[order[i]]) << size << ": " << order[i] << " twice";
      seen[order[i]] = true;
    }
    EXPECT_THROW(order[size], Error);
  }
}

TEST(KeyedPermutation, ReachesHugeSizes) {
  for (uint64_t size : {uint64_t{1} << 40, ~uint64_t{0}}) {
    const KeyedPermutation order(size, 1, "order");
    std::set<uint64_t> seen;
    for (uint64_t i = 0; i < 1000; ++i) EXPECT_LT(*seen.insert(order[i]).first, size);
    EXPECT_EQ(seen.size(), 1000u);
    EXPECT_GT(*seen.rbegin(), size / 2);
  }
}

TEST(KeyedPermutation, EpochsSeedsAndStreamsDiffer) {
  const auto listed = [](uint64_t seed, const char* stream, uint64_t epoch) {
    const KeyedPermutation order(100, seed, stream, epoch);
    std::vector<uint64_t> values;
    for (uint64_t i = 0; i < 100; ++i) values.push_back(order[i]);
    return values;
  };
  const std::set<std::vector<uint64_t>> all = {listed(1, "a", 0), listed(1, "a", 1), listed(2, "a", 0),
                                               listed(1, "b", 0)};
  EXPECT_EQ(all.size(), 4u);
  EXPECT_EQ(listed(1, "a", 0), listed(1, "a", 0));
}

// Tiny data sets must be shuffled as well as large ones: all orders of three equally often, every place of
// ten too.
TEST(KeyedPermutation, SmallOnesAreFair) {
  const int epochs = 20'000;
  std::map<std::string, int64_t> orders;
  std::vector<int64_t> first(10, 0), fifth(10, 0);
  for (uint64_t epoch = 0; epoch < epochs; ++epoch) {
    const KeyedPermutation three(3, 9, "fair", epoch), ten(10, 9, "fair", epoch);
    std::string text;
    for (uint64_t i = 0; i < 3; ++i) text += static_cast<char>('a' + three[i]);
    ++orders[text];
    ++first[ten[0]];
    ++fifth[ten[5]];
  }
  std::vector<int64_t> counts;
  for (const auto& [text, count] : orders) counts.push_back(count);
  ASSERT_EQ(counts.size(), 6u);
  EXPECT_LT(chi_squared(counts), 5 + 4 * std::sqrt(10.0));
  EXPECT_LT(chi_squared(first), 9 + 4 * std::sqrt(18.0));
  EXPECT_LT(chi_squared(fifth), 9 + 4 * std::sqrt(18.0));
}

}  // namespace
}  // namespace ctxc
