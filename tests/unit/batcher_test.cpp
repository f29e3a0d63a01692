// The order of examples: a function of (seed, step, micro), with every example of an epoch exactly once.
#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "data/source.h"
#include "testing.h"

namespace ctxc {
namespace {

/// Examples whose first context token is their index; lengths and numbers of queries vary.
class Numbered : public DataSource {
 public:
  Numbered(int64_t size, TokenId base = 0) : size_(size), base_(base) {}
  int64_t size() const override { return size_; }
  Example example(int64_t index) const override {
    Example example;
    example.context.assign(static_cast<size_t>(1 + index * 37 % 23), base_ + static_cast<TokenId>(index));
    for (int64_t i = 0; i <= index % 5; ++i) example.queries.push_back({{}, {}, std::to_string(i), "", {}});
    return example;
  }
  std::string fingerprint() const override { return "numbered-" + std::to_string(size_); }
  const SourceStats& stats() const override { return stats_; }
  const std::string& name() const override { return name_; }

 private:
  int64_t size_;
  TokenId base_;
  SourceStats stats_;
  std::string name_ = "numbered";
};

Batcher make(int64_t size, Batcher::Options options) {
  return Batcher({std::make_shared<Numbered>(size)}, {1}, options);
}

std::vector<TokenId> ids(const Batch& batch) {
  std::vector<TokenId> result;
  for (const Example& example : batch.examples) result.push_back(example.context.front());
  return result;
}

/// The examples of micro-batches [begin, end), in order.
std::vector<TokenId> order(const Batcher& batcher, int64_t begin, int64_t end, int64_t accumulate = 1) {
  std::vector<TokenId> result;
  for (int64_t i = begin; i < end; ++i)
    for (TokenId id : ids(batcher.batch(i / accumulate, i % accumulate))) result.push_back(id);
  return result;
}

TEST(Batcher, EveryExampleOfAnEpochComesExactlyOnce) {
  for (int64_t size : {1, 7, 64, 101})
    for (int64_t batch : {1, 8, 30})
      for (int64_t bucket : {1, 4, 16}) {
        const Batcher batcher = make(size, {.batch = batch, .bucket_batches = bucket, .seed = 3});
        const int64_t per_epoch = batcher.batches_per_epoch();
        EXPECT_EQ(per_epoch, (size + batch - 1) / batch);
        for (int64_t epoch = 0; epoch < 3; ++epoch) {
          auto seen = order(batcher, epoch * per_epoch, (epoch + 1) * per_epoch);
          std::sort(seen.begin(), seen.end());
          ASSERT_EQ(seen.size(), static_cast<size_t>(size));
          for (int64_t i = 0; i < size; ++i) EXPECT_EQ(seen[static_cast<size_t>(i)], i);
        }
      }
}

TEST(Batcher, ResumedOrderEqualsUninterrupted) {
  const Batcher::Options options{
      .batch = 4, .accumulate = 3, .bucket_batches = 5, .seed = 9, .max_queries = 2};
  const Batcher whole = make(50, options);
  const auto uninterrupted = order(whole, 0, 60, 3);
  for (int64_t step : {1, 4, 11}) {
    const Batcher resumed = make(50, options);
    auto tail = order(resumed, step * 3, 60, 3);
    EXPECT_TRUE(std::equal(tail.rbegin(), tail.rend(), uninterrupted.rbegin())) << step;
    const Batch a = whole.batch(step, 1), b = resumed.batch(step, 1);
    for (size_t i = 0; i < a.examples.size(); ++i)
      for (size_t k = 0; k < a.examples[i].queries.size(); ++k)
        EXPECT_EQ(a.examples[i].queries[k].id, b.examples[i].queries[k].id);
  }
  const StepKey key = whole.batch(5, 2).key;
  EXPECT_EQ(key.step, 5);
  EXPECT_EQ(key.micro, 2);
  EXPECT_EQ(key.seed, 9u);
}

TEST(Batcher, OrderDependsOnSeedAndEpochAlone) {
  // Without buckets the order does not depend on how it is cut into batches.
  const Batcher by4 = make(48, {.batch = 4, .bucket_batches = 1, .seed = 1});
  const Batcher by6 = make(48, {.batch = 6, .bucket_batches = 1, .seed = 1});
  const Batcher other = make(48, {.batch = 4, .bucket_batches = 1, .seed = 2});
  EXPECT_EQ(order(by4, 0, 24), order(by6, 0, 16));
  EXPECT_NE(order(by4, 0, 12), order(other, 0, 12));
  EXPECT_NE(order(by4, 0, 12), order(by4, 12, 24));
  std::vector<TokenId> plain(48);
  for (size_t i = 0; i < plain.size(); ++i) plain[i] = static_cast<TokenId>(i);
  EXPECT_NE(order(by4, 0, 12), plain);
  EXPECT_EQ(order(make(48, {.batch = 4, .bucket_batches = 1, .shuffle = false}), 0, 12), plain);
}

TEST(Batcher, BucketsHoldSimilarLengths) {
  const auto spread = [](const Batcher& batcher) {
    size_t sum = 0;
    for (int64_t i = 0; i < batcher.batches_per_epoch(); ++i) {
      const Batch batch = batcher.batch(i, 0);
      size_t low = 1000, high = 0;
      for (const Example& example : batch.examples) {
        low = std::min(low, example.context.size());
        high = std::max(high, example.context.size());
      }
      sum += high - low;
    }
    return sum;
  };
  EXPECT_LT(4 * spread(make(256, {.batch = 8, .bucket_batches = 16})),
            spread(make(256, {.batch = 8, .bucket_batches = 1})));
}

TEST(Batcher, WeightsCompareExamples) {
  const auto a = std::make_shared<Numbered>(30), b = std::make_shared<Numbered>(20, 100);
  const Batcher batcher({a, b}, {0.5, 1.25}, {.batch = 8});
  std::map<TokenId, int> seen;
  for (TokenId id : order(batcher, 0, 2 * batcher.batches_per_epoch())) ++seen[id];
  // Two epochs: 2 x 30 visits of the first source, 2 x 50 of the second: each of its examples five times.
  for (TokenId id = 0; id < 30; ++id) EXPECT_EQ(seen[id], 2) << id;
  for (TokenId id = 100; id < 120; ++id) EXPECT_EQ(seen[id], 5) << id;
}

TEST(Batcher, WeightsCanBeSharesOfTheSources) {
  const auto a = std::make_shared<Numbered>(60), b = std::make_shared<Numbered>(10, 100);
  const Batcher batcher({a, b}, {0.7, 0.3}, {.batch = 8, .mix_sources = true});
  int64_t first = 0, second = 0;
  std::map<TokenId, int> seen;
  for (TokenId id : order(batcher, 0, batcher.batches_per_epoch())) {
    ++(id < 100 ? first : second);
    ++seen[id];
  }
  EXPECT_EQ(first, 60);   // the larger source once
  EXPECT_EQ(second, 26);  // 60 * 3 / 7
  for (TokenId id = 100; id < 110; ++id) EXPECT_GE(seen[id], 2) << id;
}

TEST(Batcher, QueriesAreDrawnAnewEachEpoch) {
  const Batcher batcher = make(10, {.batch = 10, .bucket_batches = 1, .max_queries = 2});
  std::map<TokenId, std::set<std::string>> drawn;
  for (int64_t epoch = 0; epoch < 30; ++epoch)
    for (const Example& example : batcher.batch(epoch, 0).examples) {
      EXPECT_EQ(example.queries.size(), std::min<size_t>(2, 1 + static_cast<size_t>(example.context[0]) % 5));
      for (size_t i = 1; i < example.queries.size(); ++i)
        EXPECT_LT(example.queries[i - 1].id, example.queries[i].id);
      for (const Query& query : example.queries) drawn[example.context[0]].insert(query.id);
    }
  for (const auto& [id, queries] : drawn) EXPECT_EQ(queries.size(), 1 + static_cast<size_t>(id) % 5);
}

TEST(Batcher, FingerprintAndBadOptions) {
  const Batcher a = make(10, {.seed = 1}), b = make(10, {.seed = 1}), c = make(10, {.seed = 2}),
                d = make(11, {.seed = 1});
  EXPECT_EQ(a.fingerprint(), b.fingerprint());
  EXPECT_NE(a.fingerprint(), c.fingerprint());
  EXPECT_NE(a.fingerprint(), d.fingerprint());
  EXPECT_THROW(make(10, {.batch = 0}), Error);
  EXPECT_THROW(make(0, {}), Error);
  const auto source = std::make_shared<Numbered>(3);
  EXPECT_THROW(Batcher({source}, {0}, {}), Error);
  EXPECT_THROW(Batcher({source}, {}, {}), Error);
}

}  // namespace
}  // namespace ctxc
