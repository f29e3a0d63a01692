#include "model/hidden_cache.h"

#include "model/compressor.h"
#include "testing.h"
#include "throws.h"
#include "tiny_llama.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::random_tokens;
using testing::TempDir;

constexpr uint64_t kPlenty = uint64_t{1} << 30;

std::shared_ptr<Backbone> backbone(uint64_t seed = 3) {
  return Backbone::random(testing::tiny_llama(), seed);
}
const std::vector<Tokens>& contexts() {
  static const std::vector<Tokens> rows = {
      random_tokens(9, 1), random_tokens(20, 2), {}, random_tokens(4, 3)};
  return rows;
}
std::vector<Tensor> states(const Backbone& base, HiddenCache* cache, int64_t piece = 0) {
  Context context(base, contexts());
  context.use_cache(cache);
  return context.hidden({0, 2}, 3, piece);
}

TEST(HiddenCache, GivesTheRoundedStatesWhetherTheyWereThereOrNot) {
  const TempDir temp;
  const auto base = backbone();
  const std::vector<Tensor> plain = states(*base, nullptr);
  std::vector<Tensor> first;
  {
    HiddenCache cache(temp.str(), *base, kPlenty);
    first = states(*base, &cache);
    EXPECT_EQ(cache.hits(), 0);
    for (size_t l = 0; l < plain.size(); ++l) {
      EXPECT_EQ(first[l].scalar_type(), plain[l].scalar_type());
      EXPECT_TRUE(at::equal(first[l], plain[l].to(at::kBFloat16).to(at::kFloat)));
    }
    const std::vector<Tensor> pieces = states(*base, &cache, 8);
    EXPECT_FALSE(at::equal(pieces[1], first[1])) << "pieces are other states";
    EXPECT_EQ(cache.hits(), 0);
  }
  HiddenCache again(temp.str(), *base, kPlenty);
  const std::vector<Tensor> second = states(*base, &again);
  EXPECT_EQ(again.hits(), 3);
  EXPECT_EQ(again.misses(), 0) << "an empty context needs none";
  for (size_t l = 0; l < plain.size(); ++l) EXPECT_TRUE(at::equal(second[l], first[l]));
}

TEST(HiddenCache, ARecordThatWasCutShortIsMadeAgain) {
  const TempDir temp;
  const auto base = backbone();
  std::vector<Tensor> first;
  {
    HiddenCache cache(temp.str(), *base, kPlenty);
    first = states(*base, &cache);
  }
  for (const auto& entry : std::filesystem::directory_iterator(temp.str()))
    if (entry.path().extension() == ".bin") std::filesystem::resize_file(entry.path(), entry.file_size() - 5);
  HiddenCache cache(temp.str(), *base, kPlenty);
  const std::vector<Tensor> second = states(*base, &cache);
  EXPECT_EQ(cache.hits(), 2);
  for (size_t l = 0; l < first.size(); ++l) EXPECT_TRUE(at::equal(second[l], first[l]));
  EXPECT_TRUE(at::equal(states(*base, &cache)[0], first[0]));
  EXPECT_EQ(cache.hits(), 5);
}

TEST(HiddenCache, KeepsBasesApartAndItsSize) {
  const TempDir temp;
  const auto base = backbone(), other = backbone(4);
  {
    HiddenCache cache(temp.str(), *base, kPlenty);
    states(*base, &cache);
    expect_error(ErrorKind::kBusy, "", [&] { HiddenCache second(temp.str(), *base, kPlenty); });
  }
  HiddenCache cache(temp.str(), *other, 1500);
  const std::vector<Tensor> found = states(*other, &cache);
  EXPECT_EQ(cache.hits(), 0);
  EXPECT_TRUE(at::equal(found[0], states(*other, nullptr)[0].to(at::kBFloat16).to(at::kFloat)));
  states(*other, &cache);
  EXPECT_EQ(cache.hits(), 1) << "only the first context fits into 1500 bytes";
}

TEST(HiddenCache, RefusesABaseThatTrains) {
  const TempDir temp;
  const auto base = Backbone::random(testing::tiny_llama(), 3, {.trainable = true});
  expect_error(ErrorKind::kUsage, "a base that trains",
               [&] { HiddenCache cache(temp.str(), *base, kPlenty); });
}

}  // namespace
}  // namespace ctxc
