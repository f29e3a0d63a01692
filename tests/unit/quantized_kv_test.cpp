// Few bits a number: packing, the stated loss, and a context read through it.
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>

#include <cmath>

#include "core/yaml.h"
#include "model/blocks/bit_rows.h"
#include "model/compressor.h"
#include "model/generate.h"
#include "tiny_llama.h"

namespace ctxc {
namespace {

using testing::random_tensor;
using testing::random_tokens;
using testing::tiny_llama;

TEST(BitRows, NumbersOnTheGridComeBackExactly) {
  // Every code of every width, in groups whose last one is shorter and ends inside a byte.
  for (int64_t bits : {1, 2, 4, 8}) {
    const int64_t levels = int64_t{1} << bits, length = 2 * levels + 1;
    Tensor exact = (at::arange(length) % levels).to(at::kFloat).view({1, length, 1}).repeat({2, 1, 3});
    exact[1] *= 0.5;
    // The shorter group holds one number, which is its own zero.
    const BitRows rows = pack_bits(exact, 1, bits, 2 * levels);
    EXPECT_TRUE(at::equal(rows.unpacked(), exact)) << bits;
    EXPECT_EQ(rows.scale.sizes(), at::IntArrayRef({2, 3, 2})) << bits;
  }
}

TEST(BitRows, BytesAreThoseOfCodesScalesAndZeros) {
  const Tensor exact = random_tensor({2, 5, 8}, 1);
  // Along 5 in groups of 4: 16 rows of 4 + 1 codes; 2 bits -> 1 + 1 bytes and 2 x 2 numbers of two bytes.
  EXPECT_EQ(pack_bits(exact, 1, 2, 4).bytes(), 16 * (2 + 8));
  EXPECT_EQ(pack_bits(exact, 1, 1, 4).bytes(), 16 * (2 + 8));
  EXPECT_EQ(pack_bits(exact, 2, 1, 8).bytes(), 10 * (1 + 4));
  EXPECT_EQ(pack_bits(exact, 2, 8, 8).bytes(), 10 * (8 + 4));
}

TEST(BitRows, TheErrorIsThatOfTheBits) {
  const Tensor exact = at::randn({64, 32}, at::make_generator<at::CPUGeneratorImpl>(1));
  for (int64_t bits : {2, 4, 8}) {
    const BitRows rows = pack_bits(exact, 1, bits, 32);
    const Tensor step = rows.scale.to(at::kFloat), error = (rows.unpacked() - exact).abs();
    // Half a step, and what rounding zero and scale to float16 moves the ends by.
    EXPECT_TRUE((error <= step / 2 + 4e-3).all().item<bool>()) << bits;
    EXPECT_GT(error.max().item<double>(), 0.4 * step.min().item<double>()) << bits;
  }
  // A Gaussian through its best two levels loses 1 - 2/pi of its variance.
  const Tensor read = pack_bits(exact, 1, 1, 32).unpacked();
  EXPECT_NEAR((read - exact).square().mean().item<double>(), 1 - 2 / M_PI, 0.05);
}

TEST(BitRows, EqualNumbersHaveNoScale) {
  for (int64_t bits : {1, 2, 8}) {
    const Tensor exact = at::full({3, 7}, -2.5);
    EXPECT_TRUE(at::equal(pack_bits(exact, 1, bits, 4).unpacked(), exact)) << bits;
  }
}

class QuantizedKv : public ::testing::Test {
 protected:
  Compressed compress(const std::string& keys, const std::vector<Tokens>& contexts) const {
    const auto method = make_compressor(Yaml::parse("name: quantized_kv\n" + keys, "test"),
                                        {.backbone = tiny_llama(), .head_ids = {1}, .seed = 1});
    Context context(*backbone_, contexts);
    return method->compress(context, {});
  }
  std::shared_ptr<Backbone> backbone_ = Backbone::random(tiny_llama(), 3);
};

TEST_F(QuantizedKv, EightBitsAnswerAsTheFullContext) {
  const std::vector<Tokens> contexts = {random_tokens(23, 1), random_tokens(9, 2)};
  const auto full = make_compressor(Yaml::parse("name: full", "test"),
                                    {.backbone = tiny_llama(), .head_ids = {1}, .seed = 1});
  Context context(*backbone_, contexts);
  const Memory exact = full->compress(context, {}).memory, read = compress("bits: 8", contexts).memory;
  const std::vector<Tokens> prompts = {random_tokens(4, 3), random_tokens(6, 4)};
  const GenerateOptions options{.max_new_tokens = 8};
  EXPECT_EQ(generate(*backbone_, read, {0, 1}, prompts, options).tokens,
            generate(*backbone_, exact, {0, 1}, prompts, options).tokens);
}

TEST_F(QuantizedKv, LessBitsAreLessBytesAndMoreError) {
  const std::vector<Tokens> contexts = {random_tokens(32, 1)};
  double last_bytes = 1e9, last_error = 0;
  for (int64_t bits : {8, 4, 2, 1}) {
    const Terms terms = compress(fmt::format("bits: {}\ngroup: 8", bits), contexts).aux;
    // 3 layers x 2 heads x 8 channels, keys and values; each eight numbers of either share two of two bytes.
    const double bytes = terms.at("stored_bytes_per_token").item<double>();
    EXPECT_DOUBLE_EQ(bytes, 2 * 48 * (static_cast<double>(bits) / 8 + 4.0 / 8)) << bits;
    const double error = terms.at("key_error").item<double>();
    EXPECT_LT(bytes, last_bytes);
    EXPECT_GT(error, last_error);
    last_bytes = bytes;
    last_error = error;
  }
  EXPECT_LT(last_error, 0.8);
}

TEST_F(QuantizedKv, TheHeadStaysExact) {
  const Tokens tokens = random_tokens(12, 5);
  const Memory coarse = compress("bits: 1", {tokens}).memory, fine = compress("bits: 8", {tokens}).memory;
  EXPECT_TRUE(at::equal(coarse.kv[1].key_BGKE.narrow(2, 0, 1), fine.kv[1].key_BGKE.narrow(2, 0, 1)));
  EXPECT_FALSE(at::allclose(coarse.kv[1].key_BGKE, fine.kv[1].key_BGKE));
}

TEST_F(QuantizedKv, OtherWidthsAreErrors) {
  EXPECT_THROW(compress("bits: 3", {random_tokens(4, 1)}), Error);
}

}  // namespace
}  // namespace ctxc
