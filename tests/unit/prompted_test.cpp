// Virtual tokens in front of another method's slots: the method's memory, moved by as many rows.
#include <gtest/gtest.h>

#include "model/compressor.h"
#include "throws.h"
#include "tiny_llama.h"

namespace ctxc {
namespace {

constexpr int64_t kVirtual = 3;

class Prompted : public ::testing::Test {
 protected:
  Prompted() : backbone_(Backbone::random(testing::tiny_llama(), 5)) {}
  std::shared_ptr<Compressor> make(const std::string& section) const {
    return make_compressor(Yaml::parse(section, "test"),
                           {.backbone = backbone_->config(), .head_ids = {1}, .seed = 5});
  }
  Memory memory(Compressor& method) const {
    Context context(*backbone_, {testing::random_tokens(22, 0), testing::random_tokens(9, 1)});
    return method.compress(context, {.seed = 5, .step = 0, .micro = 0, .training = false}).memory;
  }
  std::shared_ptr<Backbone> backbone_;
};

TEST_F(Prompted, TheMethodsMemoryBehindRowsOfTheVocabulary) {
  for (const std::string method : {"name: mean_pool, ratio: 4",
                                   "name: diffusion, ratio: 4, chunk: 16, width: 32, latent_width: 32, "
                                   "slot_positions: spread, layers: all"}) {
    const auto alone = make("{" + method + "}");
    const auto prompted = make("{name: prompted, tokens: 3, init_ids: [7, 8], method: {" + method + "}}");
    const at::NoGradGuard no_grad;
    const Memory expected = memory(*alone), found = memory(*prompted);
    ASSERT_EQ(found.slots(), expected.slots() + kVirtual);
    const Tensor rows = backbone_->embed(at::tensor(std::vector<int64_t>{7, 8, 7}, at::kLong));
    for (int64_t row = 0; row < 2; ++row)
      EXPECT_TRUE(at::equal(found.slots_BKD[row].slice(0, 0, kVirtual), rows.to(found.slots_BKD.dtype())));
    EXPECT_TRUE(at::equal(found.slots_BKD.slice(1, kVirtual), expected.slots_BKD)) << method;
    EXPECT_TRUE(at::equal(found.mask_BK.slice(1, kVirtual), expected.mask_BK));
    EXPECT_TRUE(found.mask_BK.slice(1, 0, kVirtual).all().item<bool>());
    EXPECT_TRUE(at::equal(found.position_BK.slice(1, 0, kVirtual),
                          at::tensor(std::vector<int64_t>{1, 2, 3}, at::kLong).expand({2, kVirtual})));
    EXPECT_TRUE(at::equal(found.position_BK.slice(1, kVirtual).masked_select(expected.mask_BK),
                          expected.position_BK.masked_select(expected.mask_BK) + kVirtual));
    EXPECT_TRUE(at::equal(found.next_position_B, expected.next_position_B + kVirtual));
    EXPECT_EQ(prompted->slots_for(22), alone->slots_for(22) + kVirtual);
  }
}

TEST_F(Prompted, RefusesWhatHasNoSlotsForAll) {
  testing::expect_error(ErrorKind::kUsage, "compressor.method.name is missing",
                        [&] { make("{name: prompted}"); });
  for (const char* name : {"lcc", "prompted", "meanpool"})
    testing::expect_error(ErrorKind::kUsage, "found '" + std::string(name) + "'",
                          [&] { make("{name: prompted, method: {name: " + std::string(name) + "}}"); });
  testing::expect_error(ErrorKind::kUsage, "unknown key 'compressor.method.rato'",
                        [&] { make("{name: prompted, method: {name: mean_pool, rato: 4}}"); });
  for (const char* name : {"500x", "sac"})
    testing::expect_error(ErrorKind::kUsage, "found a method whose memory is keys and values",
                          [&] { make("{name: prompted, method: {name: " + std::string(name) + "}}"); });
  testing::expect_error(ErrorKind::kUsage, "token id out of range",
                        [&] { make("{name: prompted, init_ids: [96], method: {name: mean_pool}}"); });
}

}  // namespace
}  // namespace ctxc
