// Properties of the diffusion-noise compressor as a whole (diffusion.md section 12).
#include <cmath>

#include "model/blocks/channel.h"
#include "model/compressor.h"
#include "model/objective.h"
#include "small_diffusion.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::compress;
using testing::expect_error;
using testing::method;
using testing::random_tokens;
using testing::slots_of;
using testing::small_backbone;
using testing::stir;
using testing::worst;

const std::vector<std::string>& variants() {
  static const std::vector<std::string> all = {"",
                                               ", denoiser: flat",
                                               ", start: gaussian, steps: 3",
                                               ", passes: 2",
                                               ", passes: 2, start: gaussian, denoiser: flat",
                                               ", passes: 3, view_pool: false",
                                               ", steps: 0",
                                               ", steps: 1, prediction: x0",
                                               ", channel: none",
                                               ", channel: vae",
                                               ", lam_shared: true, cond: constant",
                                               ", lam_per_dim: true",
                                               ", state: 0",
                                               ", init: residual, latent_width: 32",
                                               ", init: residual, latent_width: 32, slots: log, chunk: 8",
                                               ", pos: alibi, noise: {rope: off}",
                                               ", pos: none, pool: mean, noise: {rope: off}",
                                               ", pos: offset, pool: attn, noise: {rope: off}",
                                               ", pool: attn_rot, schedule: cosine",
                                               ", pool: mean_linear, zero_terminal_snr: true",
                                               ", slot_positions: spread, sink: false",
                                               ", position: true, bptt_steps: last, skip_bypass: true",
                                               ", slots: state_only",
                                               ", slots: latents+state, chunk: 16",
                                               ", slots: log, chunk: 8",
                                               ", slots: log, chunk: 8, slot_positions: spread",
                                               ", ratio: 16, kl_mode: beta",
                                               ", ratio: 2, infer_noise: seeded, dn_weighting: minsnr"};
  return all;
}

class DiffusionVariants : public ::testing::TestWithParam<std::string> {};

TEST_P(DiffusionVariants, SlotsArePaddingFreeDeterministicAndWithinTheBudget) {
  const auto compressor = method(GetParam());
  stir(*compressor);
  const std::vector<Tokens> contexts = {random_tokens(75, 1), random_tokens(9, 2), {}, random_tokens(32, 3)};
  const Memory together = compress(*compressor, contexts).memory,
               again = compress(*compressor, contexts).memory;
  EXPECT_TRUE(at::equal(together.slots_BKD, again.slots_BKD));
  for (size_t row = 0; row < contexts.size(); ++row) {
    const int64_t tokens = static_cast<int64_t>(contexts[row].size());
    const Tensor mine = slots_of(together, static_cast<int64_t>(row));
    EXPECT_EQ(mine.size(0), compressor->slots_for(tokens));
    EXPECT_LE(mine.size(0), (tokens + compressor->ratio() - 1) / compressor->ratio());
    EXPECT_TRUE(mine.isfinite().all().item<bool>());
    if (tokens == 0) continue;
    const Memory alone = compress(*compressor, {contexts[row]}, false, 0, tokens + 37).memory;
    EXPECT_LT(worst(mine, slots_of(alone, 0)), 1e-4) << "row " << row;
  }
}

TEST_P(DiffusionVariants, TrainsOnEveryTermWithFiniteGradients) {
  const auto compressor = method(GetParam());
  stir(*compressor, 0.01);
  const Compressed result = compress(*compressor, {random_tokens(75, 1), random_tokens(9, 2)}, true);
  Tensor loss = result.memory.slots_BKD.square().mean();
  for (const char* term : {"kl", "agg", "denoise", "recon"}) {
    ASSERT_TRUE(result.aux.count(term)) << term;
    EXPECT_TRUE(result.aux.at(term).isfinite().item<bool>()) << term;
    loss = loss + result.aux.at(term);
  }
  if (result.aux.count("position")) loss = loss + result.aux.at("position");
  loss.backward();
  const auto idle = compressor->idle_parameters();
  for (const auto& item : compressor->named_parameters()) {
    EXPECT_EQ(item.value().grad().defined(), !idle.count(item.key())) << item.key();
    if (idle.count(item.key())) continue;
    EXPECT_TRUE(item.value().grad().isfinite().all().item<bool>()) << item.key();
  }
  for (const auto& [name, weight] : small_backbone()->weights())
    EXPECT_FALSE(weight.grad().defined()) << name;
}

INSTANTIATE_TEST_SUITE_P(Switches, DiffusionVariants, ::testing::ValuesIn(variants()),
                         [](const auto& info) { return std::to_string(info.index); });

TEST(Diffusion, StartsAtItsLevelAndNeverLeavesTheRange) {
  const auto compressor = method(", level_train: false");
  const auto lam_of = [&] {
    return compress(*compressor, {random_tokens(40, 1)}).aux.at("lam_mean").item<double>();
  };
  EXPECT_NEAR(lam_of(), 3, 1e-4);
  for (const double push : {-1e4, 1e4}) {
    const at::NoGradGuard no_grad;
    compressor->named_parameters()["level_bias"].fill_(push);
    const double edge = push < 0 ? lowest_log_snr(0.5, 4, 16) : 8;
    EXPECT_NEAR(lam_of(), edge, 1e-4);
  }
}

TEST(Diffusion, AtTheEdgesOfTheLevelsGradientsStayFinite) {
  for (const double push : {-40.0, 40.0}) {
    const auto compressor = method();
    {
      const at::NoGradGuard no_grad;
      compressor->named_parameters()["level_bias"].fill_(push);
    }
    stir(*compressor, 0.01);
    const Compressed result = compress(*compressor, {random_tokens(40, 1)}, true);
    (result.memory.slots_BKD.square().mean() + result.aux.at("kl") + result.aux.at("denoise")).backward();
    for (const auto& item : compressor->named_parameters())
      EXPECT_TRUE(!item.value().grad().defined() || item.value().grad().isfinite().all().item<bool>())
          << item.key();
  }
}

TEST(Diffusion, ReportsTheRateOfItsLevels) {
  const auto compressor = method();
  const Terms aux = compress(*compressor, {random_tokens(40, 1)}).aux;
  const double rate = 8 * std::log1p(std::exp(3.0));  // d_z / 2 softplus(lam)
  EXPECT_NEAR(aux.at("rate_nats").item<double>(), rate, 1e-3);
  EXPECT_NEAR(aux.at("rate_nats_per_token").item<double>(), rate / 4, 1e-3);
  EXPECT_NEAR(aux.at("rate_bits_per_token").item<double>(), rate / 4 / std::log(2), 1e-3);
  EXPECT_EQ(aux.at("vectors_read").item<double>(), 10);
  EXPECT_EQ(aux.at("ratio_effective").item<double>(), 4);
}

TEST(Diffusion, CanBeReadAtAnyStepOfTheSchedule) {
  const std::vector<Tokens> text = {random_tokens(40, 1)};
  const auto own = method(), clean = method(", infer_level: 0"), half = method(", infer_level: 500");
  const double abar = 0.0786;  // of the linear schedule at t = 500, within 1e-3
  const double rate = compress(*half, text).aux.at("rate_nats").item<double>();
  EXPECT_NEAR(rate, -8 * std::log1p(-abar), 0.02);
  EXPECT_GT(worst(slots_of(compress(*own, text).memory, 0), slots_of(compress(*half, text).memory, 0)), 1e-3);
  EXPECT_GT(compress(*clean, text).aux.at("lam_mean").item<double>(), 15);
  EXPECT_TRUE(at::equal(compress(*own, text, true).memory.slots_BKD,
                        compress(*half, text, true).memory.slots_BKD));  // training keeps its own levels
  expect_error(ErrorKind::kUsage, "compressor.infer_level",
               [] { method(", infer_level: 3, channel: none"); });
}

TEST(Diffusion, TheRateTermIsSilentAtItsTargetAndOneAtTwice) {
  const double rate = 8 * std::log1p(std::exp(3.0)) / 4;
  const auto kl_at = [&](double target, int64_t step, const std::string& more = "") {
    const auto compressor = method(fmt::format(", rho_target: {:.9f}, kl_ramp: [10, 20]{}", target, more));
    return compress(*compressor, {random_tokens(40, 1)}, true, step).aux.at("kl").item<double>();
  };
  EXPECT_NEAR(kl_at(rate / 2, 30), 1, 1e-4);
  EXPECT_NEAR(kl_at(rate, 30), 0, 1e-4);
  EXPECT_EQ(kl_at(2 * rate, 30), 0);
  EXPECT_NEAR(kl_at(rate / 2, 5), 0, 1e-4);              // before the ramp the target is the initial rate
  EXPECT_NEAR(kl_at(rate / 2, 15), 1 / 0.75 - 1, 1e-4);  // half-way down
  EXPECT_NEAR(kl_at(1, 15, ", kl_mode: beta"), 0.5 * 4 * rate / 16, 1e-4);
}

TEST(Diffusion, EveryLatentHasItsOwnPlaceUnlessShared) {
  for (const bool shared : {false, true}) {
    const auto compressor = method(shared ? ", lam_shared: true" : "");
    EXPECT_EQ(compressor->named_parameters().contains("level_weight"), !shared);
  }
}

TEST(Diffusion, TokensBindToTheirPlaces) {
  Tokens context = random_tokens(32, 1), swapped = context;
  std::swap(swapped[4], swapped[5]);
  ASSERT_NE(context[4], context[5]);
  const auto moved = [&](const std::string& more) {
    const auto compressor = method(", layers: embedding, window: 64" + more);
    const Tensor a = slots_of(compress(*compressor, {context}).memory, 0);
    return worst(a, slots_of(compress(*compressor, {swapped}).memory, 0)) / a.abs().max().item<double>();
  };
  EXPECT_GT(moved(""), 1e-2);
  EXPECT_LT(moved(", pool: mean, pos: none, noise: {rope: off}"), 1e-5);  // the binding bottleneck
}

TEST(Diffusion, LaterChunksKnowEarlierOnesThroughTheStateAlone) {
  // From the embeddings alone: deeper states of the base know what stood before in any case.
  const Tokens tail = random_tokens(32, 3);
  for (const bool stateful : {true, false}) {
    const auto compressor = method(std::string(", layers: embedding") + (stateful ? "" : ", state: 0"));
    stir(*compressor);
    const auto slots_of_tail = [&](Tokens head) {
      head.insert(head.end(), tail.begin(), tail.end());
      return slots_of(compress(*compressor, {head}).memory, 0).slice(0, 8);
    };
    const double moved = worst(slots_of_tail(random_tokens(32, 1)), slots_of_tail(random_tokens(32, 2)));
    if (stateful)
      EXPECT_GT(moved, 1e-4);
    else
      EXPECT_EQ(moved, 0);
  }
}

/// Two passes show the first chunk what comes after it.
TEST(Diffusion, ASecondPassKnowsTheWholeText) {
  const Tokens head = random_tokens(32, 3);
  for (const bool twice : {true, false}) {
    const auto compressor = method(std::string(", layers: embedding") + (twice ? ", passes: 2" : ""));
    stir(*compressor);
    const auto slots_of_head = [&](const Tokens& tail) {
      Tokens text = head;
      text.insert(text.end(), tail.begin(), tail.end());
      return slots_of(compress(*compressor, {text}).memory, 0).slice(0, 0, 8);
    };
    const double moved = worst(slots_of_head(random_tokens(32, 1)), slots_of_head(random_tokens(32, 2)));
    if (twice)
      EXPECT_GT(moved, 1e-4);
    else
      EXPECT_EQ(moved, 0);
  }
}

/// With the channel shut (abar so small that only noise is left) nothing of the source may come through: the
/// slots of two sources with the same masks are the same bits. Fails as soon as somebody adds a way around
/// the channel.
/// Back-propagation is cut into blocks of tbptt_chunks: what the slots of each chunk reach.
TEST(Diffusion, GradientsRunBackOverBlocksOfChunks) {
  constexpr int64_t kChunk = 8, kChunks = 6;
  Tokens text;  // every token once
  for (int64_t i = 0; i < kChunk * kChunks; ++i) text.push_back(static_cast<TokenId>(3 + i));
  for (const int64_t passes : {1, 2}) {
    const auto compressor =
        method(", chunk: 8, layers: embedding, level_train: false, passes: " + std::to_string(passes));
    stir(*compressor);
    const auto trained = Backbone::random(testing::tiny_llama(), 3, {.trainable = true});
    const Tensor weight = trained->weights().at("model.embed_tokens.weight");
    Context context(*trained, {text});
    const Tensor slots_KD =
        compressor->compress(context, {.seed = 1, .step = 0, .micro = 0, .training = true})
            .memory.slots_BKD[0];
    ASSERT_EQ(slots_KD.size(0), kChunks * 2);
    for (int64_t c = 0; c < kChunks; ++c) {
      weight.mutable_grad() = Tensor();
      slots_KD.slice(0, 2 * c, 2 * c + 2).square().sum().backward({}, /*retain_graph=*/true);
      const Tensor grad_V = weight.grad().abs().sum(1);
      for (int64_t other = 0; other < kChunks; ++other) {
        const bool own_block = other <= c && other >= c / 2 * 2;
        // The first block of the second pass goes on from the last one of the first.
        const bool before = passes == 2 && c < 2 && other >= kChunks - 2;
        const bool reached =
            grad_V.slice(0, 3 + other * kChunk, 3 + (other + 1) * kChunk).max().item<double>() > 0;
        EXPECT_EQ(reached, own_block || before) << passes << " passes, chunk " << c << " to " << other;
      }
    }
  }
}

/// All latents of a sample have the room of its lowest, whichever chunk that is in.
TEST(Diffusion, LevelTrainingLowersAllChunksOfASampleTogether) {
  const std::string keys = ", chunk: 4, state: 0, layers: embedding";  // a latent a chunk
  const auto lowered = method(keys), plain = method(keys + ", level_train: false");
  const auto differ = [&] {
    double most = 0;
    for (int64_t step = 0; step < 8; ++step)
      most = std::max(most, worst(slots_of(compress(*lowered, {random_tokens(40, 1)}, true, step).memory),
                                  slots_of(compress(*plain, {random_tokens(40, 1)}, true, step).memory)));
    return most;
  };
  EXPECT_GT(differ(), 1e-3);
  for (const auto& compressor : {lowered, plain}) {  // every latent at the top or at the floor
    const at::NoGradGuard no_grad;
    Tensor level = compressor->named_parameters()["level_weight"];
    level.copy_(1000 * testing::random_tensor(level.sizes(), 1));
  }
  const double mean = compress(*plain, {random_tokens(40, 1)}).aux.at("lam_mean").item<double>();
  ASSERT_GT(mean, lowest_log_snr(0.5, 4, 16) + 0.5);
  ASSERT_LT(mean, 7.5);
  EXPECT_LT(differ(), 1e-4) << "a latent at the floor leaves the others no room";
}

TEST(Diffusion, DenoisesASampleAtOneLevelWhereAsked) {
  for (const bool common : {true, false}) {
    const auto compressor = method(common ? ", dn_per_latent_t: false, chunk: 16" : ", chunk: 16");
    stir(*compressor, 0.3);
    for (int64_t step = 0; step < 16; ++step) {
      const Terms aux = compress(*compressor, {random_tokens(75, 1)}, true, step).aux;
      int64_t drawn = 0;
      for (int i = 0; i < 10; ++i) drawn += aux.at("explained_" + std::to_string(i)).isfinite().item<bool>();
      if (common)
        EXPECT_EQ(drawn, 1) << step;
      else
        EXPECT_GT(drawn, 1) << step;
    }
  }
}

TEST(Diffusion, RefusesAStateToContinue) {
  Context context(*small_backbone(), {random_tokens(8, 1)});
  expect_error(ErrorKind::kUsage, "needs the whole text", [&] {
    method()->compress(context, {}, {{"tokens", at::zeros({1})}});
  });
}

TEST(Diffusion, NothingGoesAroundTheChannel) {
  for (const char* more :
       {", denoiser: unet", ", denoiser: flat", ", start: gaussian, steps: 3", ", passes: 2",
        ", passes: 2, denoiser: flat", ", passes: 2, start: gaussian", ", slots: log, chunk: 8",
        ", slots: latents+state, chunk: 16", ", skip_bypass: true"}) {
    const auto compressor = method(std::string(", lam_shared: true, channel: none") + more);
    stir(*compressor);
    {
      // The latents are u / rms(u): with W_mu = 0 the channel carries zeros, whatever the source.
      const at::NoGradGuard no_grad;
      compressor->named_parameters()["latent.weight"].zero_();
    }
    const Tensor a = compress(*compressor, {random_tokens(45, 1)}).memory.slots_BKD;
    const Tensor b = compress(*compressor, {random_tokens(45, 2)}).memory.slots_BKD;
    const bool leaks = std::string(more).find("bypass") != std::string::npos;
    if (leaks)
      EXPECT_GT(worst(a, b), 1e-5) << more;
    else
      EXPECT_TRUE(at::equal(a, b)) << more;
  }
}

TEST(Diffusion, DenoisingIsLearntByTheDenoiserAlone) {
  for (const bool detach : {true, false}) {
    const auto compressor = method(detach ? "" : ", dn_detach: false");
    stir(*compressor, 0.01);
    compress(*compressor, {random_tokens(40, 1)}, true).aux.at("denoise").backward();
    const auto parameters = compressor->named_parameters();
    const auto moved = [&](const char* name) {
      const Tensor grad = parameters[name].grad();
      return grad.defined() && grad.abs().max().item<double>() > 0;
    };
    EXPECT_TRUE(moved("denoiser.out.weight"));
    EXPECT_EQ(moved("latent.weight"), !detach);
    EXPECT_EQ(moved("down.level1.pool.left.weight"), !detach);
  }
}

TEST(Diffusion, NoiseFollowsSeedStepAndTextAlone) {
  const auto compressor = method();
  const std::vector<Tokens> two = {random_tokens(40, 1), random_tokens(12, 2)};
  const Tensor a = slots_of(compress(*compressor, two, true, 3).memory, 1);
  EXPECT_TRUE(at::equal(a, slots_of(compress(*compressor, two, true, 3).memory, 1)));
  EXPECT_LT(worst(a, slots_of(compress(*compressor, {two[1]}, true, 3).memory, 0)), 1e-5);
  EXPECT_GT(worst(a, slots_of(compress(*compressor, two, true, 4).memory, 1)), 1e-4);
  // At rest no number is drawn; seeded noise is another thing and has its own seed.
  const Tensor quiet = slots_of(compress(*compressor, two, false, 3).memory, 1);
  EXPECT_TRUE(at::equal(quiet, slots_of(compress(*compressor, two, false, 9).memory, 1)));
  const auto seeded = method(", infer_noise: seeded"), other = method(", infer_noise: seeded, noise_seed: 2");
  const Tensor noisy = slots_of(compress(*seeded, two).memory, 1);
  EXPECT_TRUE(at::equal(noisy, slots_of(compress(*seeded, two).memory, 1)));
  EXPECT_GT(worst(noisy, quiet), 1e-4);
  EXPECT_GT(worst(noisy, slots_of(compress(*other, two).memory, 1)), 1e-4);
}

TEST(Diffusion, BuffersAreTrainingStateOnly) {
  const auto compressor = method();
  const Tensor before = slots_of(compress(*compressor, {random_tokens(32, 1)}).memory, 0);
  const auto count = [&] { return compressor->named_buffers()["moments.count"].item<double>(); };
  compress(*compressor, {random_tokens(32, 1)});
  EXPECT_EQ(count(), 0);
  compress(*compressor, {random_tokens(32, 1)}, true);
  EXPECT_EQ(count(), 8);
  EXPECT_TRUE(at::equal(before, slots_of(compress(*compressor, {random_tokens(32, 1)}).memory, 0)));
}

TEST(Diffusion, RunsOnlyTheLayersItReads) {
  LlamaConfig llama = testing::tiny_llama();
  llama.num_layers = 32;
  const auto deep =
      make_compressor(Yaml::parse(std::string("{name: diffusion, width: 32, heads: 2, rho: 0.5}"), "test"),
                      {.backbone = llama, .head_ids = {1}, .seed = 5});
  EXPECT_EQ(deep->needs().hidden, (std::vector<int64_t>{0, 8, 16, 24}));
  EXPECT_EQ(deep->needs().layers, 25);
  EXPECT_EQ(method(", layers: embedding")->needs().hidden, (std::vector<int64_t>{0}));
}

TEST(Diffusion, RefusesWhatCannotBe) {
  expect_error(ErrorKind::kUsage, "compressor.ratio: pairs are merged", [] { method(", ratio: 6"); });
  expect_error(ErrorKind::kUsage, "compressor.ratio", [] { method(", ratio: 64"); });
  expect_error(ErrorKind::kUsage, "compressor.chunk: not a multiple", [] { method(", chunk: 30"); });
  expect_error(ErrorKind::kUsage, "compressor.chunk: larger than the base's window",
               [] { method(", chunk: 1024"); });
  expect_error(ErrorKind::kUsage, "compressor.width", [] { method(", width: 34, heads: 4"); });
  expect_error(ErrorKind::kUsage, "compressor.lam_start", [] { method(", rho: 10"); });
  expect_error(ErrorKind::kUsage, "compressor.lam_start", [] { method(", lam_start: 8"); });
  expect_error(ErrorKind::kUsage, "compressor.kl_ramp", [] { method(", kl_ramp: [5, 2]"); });
  expect_error(ErrorKind::kUsage, "compressor.noise.rope", [] { method(", pos: alibi"); });
  expect_error(ErrorKind::kUsage, "compressor.lam_per_dim", [] { method(", lam_per_dim: true, passes: 2"); });
  expect_error(ErrorKind::kUsage, "compressor.layer_list is empty", [] { method(", layers: list").get(); });
  expect_error(ErrorKind::kUsage, "compressor.layer_list: no such",
               [] { method(", layer_list: [9], layers: list"); });
  expect_error(ErrorKind::kUsage, "compressor.slots", [] { method(", slots: state_only, state: 0"); });
  expect_error(ErrorKind::kUsage, "compressor.slots",
               [] { method(", slots: state_only, slot_positions: spread"); });
  expect_error(ErrorKind::kUsage, "compressor.init: residual", [] { method(", init: residual"); });
  expect_error(ErrorKind::kUsage, "chnk", [] { method(", chnk: 4"); });
}

TEST(Diffusion, ShortAndEmptyContexts) {
  const auto compressor = method();
  for (const bool training : {false, true}) {
    EXPECT_EQ(compress(*compressor, {random_tokens(1, 1)}, training).memory.slots(),
              1);  // shorter than one window
    const Compressed nothing = compress(*compressor, {{}, {}}, training);
    EXPECT_EQ(nothing.memory.slots(), 0);
    EXPECT_EQ(nothing.memory.batch(), 2);
  }
}

}  // namespace
}  // namespace ctxc
