// Properties of the diffusion-noise compressor that its parts alone do not show, on the real module
// (diffusion.md section 12: 8, 9, 12, 13 and 14).
#include <cmath>

#include "model/blocks/down_path.h"
#include "model/compressor.h"
#include "small_diffusion.h"

namespace ctxc {
namespace {

using testing::compress;
using testing::method;
using testing::random_tokens;
using testing::slots_of;
using testing::small_backbone;
using testing::stir;
using testing::worst;

Tensor slots_for(Compressor& compressor, const Tokens& text) {
  return slots_of(compress(compressor, {text}).memory);
}
Tokens joined(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

/// A text that stands one chunk later becomes the same latents at the same levels: from the embeddings and
/// without a state nothing else differs. The levels are those of the text, not of its place.
TEST(DiffusionProperties, ATextIsTheSameWhereverItStands) {
  const at::NoGradGuard no_grad;
  const Tokens text = random_tokens(32, 1);
  for (const char* pos : {"rope", "alibi", "none"}) {
    const auto compressor = method(fmt::format(", layers: embedding, state: 0, pos: {}, noise: {{rope: {}}}",
                                               pos, pos == std::string("rope") ? "integrated" : "off"));
    stir(*compressor);
    const Compressed once = compress(*compressor, {text}),
                     twice = compress(*compressor, {joined(text, text)});
    const Tensor slots = slots_of(twice.memory);
    ASSERT_EQ(slots.size(0), 16);
    EXPECT_LT(worst(slots.slice(0, 0, 8), slots_of(once.memory)), 1e-4) << pos;
    EXPECT_LT(worst(slots.slice(0, 8), slots_of(once.memory)), 1e-4) << pos;
    const auto level = [](const Compressed& made) { return made.aux.at("lam_mean").item<double>(); };
    EXPECT_NEAR(level(twice), level(once), 1e-4) << pos;
    EXPECT_GT(std::abs(level(once) - level(compress(*compressor, {random_tokens(32, 2)}))), 1e-4) << pos;
  }
}

/// The encoder of the real module at positions that are all moved, and at positions that are stretched.
TEST(DiffusionProperties, LatentsAndLevelsDependOnDifferencesOfPositionsAlone) {
  const at::NoGradGuard no_grad;
  const Tensor x = testing::random_tensor({1, 32, 32}, 1);
  for (const char* pos : {"rope", "alibi"}) {
    const auto compressor = method(fmt::format(", pos: {}, noise: {{rope: off}}", pos));
    stir(*compressor);
    const auto children = compressor->named_children();
    const auto down = std::dynamic_pointer_cast<DownPath>(children["down"]);
    const auto latent = std::dynamic_pointer_cast<Matrix>(children["latent"]);
    ASSERT_TRUE(down && latent);
    const auto parameters = compressor->named_parameters();
    const auto encode = [&](double first, double stride) {
      const Places places{at::arange(32, at::kFloat).unsqueeze(0) * stride + first,
                          at::ones({1, 32}, at::kBool), at::ones({1, 32})};
      const Tensor top = down->forward(x, places).x_BKD;
      const Tensor level = at::matmul(unit_rms(top), parameters["level_weight"]);
      return std::pair(unit_rms(linear(top, *latent)), level);
    };
    const auto [latents, levels] = encode(0, 1);
    const auto [moved, moved_levels] = encode(300, 1);
    const auto [stretched, stretched_levels] = encode(0, 1.5);
    EXPECT_LT(worst(moved, latents), 1e-4) << pos;
    EXPECT_LT(worst(moved_levels, levels), 1e-4) << pos;
    EXPECT_GT(worst(stretched, latents), 1e-3) << pos;
    EXPECT_GT(worst(stretched_levels, levels), 1e-5) << pos;
  }
}

/// G alone is read: from the embeddings, the same chunks in another order.
TEST(DiffusionProperties, TheStateKnowsTheOrderOfTheChunks) {
  const at::NoGradGuard no_grad;
  const Tokens a = random_tokens(32, 1), b = random_tokens(32, 2);
  for (const char* denoiser : {"unet", "flat"}) {
    const auto compressor =
        method(fmt::format(", layers: embedding, slots: state_only, denoiser: {}", denoiser));
    stir(*compressor);
    const Tensor state = slots_for(*compressor, joined(a, b));
    ASSERT_EQ(state.size(0), 4);
    EXPECT_TRUE(at::equal(state, slots_for(*compressor, joined(a, b))));
    const double moved = worst(state, slots_for(*compressor, joined(b, a)));
    EXPECT_GT(moved / state.abs().max().item<double>(), 1e-2) << denoiser;
  }
}

/// Autograd's derivative along a direction of W_mu, beside the difference quotient of the whole module: they
/// agree only if the gradient runs back through every step. With `bptt_steps: last` it does not.
TEST(DiffusionProperties, TheGradientOfTheLatentsRunsThroughEverySamplingStep) {
  const Tokens text = random_tokens(32, 1);
  for (const int64_t steps : {1, 2, 4}) {
    for (const char* through : {"all", "last"}) {
      const auto compressor =
          method(fmt::format(", lam_shared: true, steps: {}, bptt_steps: {}", steps, through));
      stir(*compressor, 0.3);
      Tensor weight = compressor->named_parameters()["latent.weight"];
      const Tensor direction = testing::random_tensor(weight.sizes(), 7);
      const Tensor readout = testing::random_tensor({8, 32}, 8);
      const auto value = [&] { return (compress(*compressor, {text}).memory.slots_BKD[0] * readout).sum(); };
      value().backward();
      const double found = (weight.grad() * direction).sum().item<double>();
      const at::NoGradGuard no_grad;
      const double h = 2e-3;
      const auto moved = [&](double by) {
        weight.add_(direction, by);
        const double result = value().item<double>();
        weight.sub_(direction, by);
        return result;
      };
      const double expected = (moved(h) - moved(-h)) / (2 * h);
      const double error = std::abs(found - expected) / std::abs(expected);
      if (steps == 1 || through == std::string("all"))
        EXPECT_LT(error, 0.02) << steps << " steps, found " << found << ", expected " << expected;
      else
        EXPECT_GT(error, 0.05) << steps << " steps: the early ones are cut off";
    }
  }
}

/// With latents of zero the channel carries nothing, whatever the source: slots of two sources are the same
/// bits for every denoiser, start and number of passes, and with living latents they are not.
TEST(DiffusionProperties, TheChannelIsTheOnlyWayInForBothDenoisersStartsAndPasses) {
  const at::NoGradGuard no_grad;
  const Tokens a = random_tokens(45, 1), b = random_tokens(45, 2);
  for (const char* denoiser : {"unet", "flat"})
    for (const char* start : {"channel", "gaussian"})
      for (const int64_t passes : {1, 2}) {
        const std::string which =
            fmt::format(", lam_shared: true, denoiser: {}, start: {}, passes: {}", denoiser, start, passes);
        const auto compressor = method(which);
        stir(*compressor);
        EXPECT_GT(worst(slots_for(*compressor, a), slots_for(*compressor, b)), 1e-3) << which;
        compressor->named_parameters()["latent.weight"].zero_();
        EXPECT_TRUE(at::equal(slots_for(*compressor, a), slots_for(*compressor, b))) << which;
      }
}

/// The weights are within (0, 5/6]: so is the weighted term, over the same draws.
TEST(DiffusionProperties, MinSnrWeighsTheDenoisingTerm) {
  const Tokens text = random_tokens(40, 1);
  const auto term = [&](const char* weighting) {
    const auto compressor = method(fmt::format(", dn_weighting: {}", weighting));
    stir(*compressor);
    return compress(*compressor, {text}, true).aux.at("denoise").item<double>();
  };
  const double simple = term("simple"), weighted = term("minsnr");
  EXPECT_GT(weighted, 0);
  EXPECT_LT(weighted, simple * 5 / 6);
}

}  // namespace
}  // namespace ctxc
