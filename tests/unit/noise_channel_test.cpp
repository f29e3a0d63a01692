// The schedule, the channel, the sampler and the moments against closed forms, Monte Carlo and an oracle
// (diffusion.md section 12, properties 1 to 6 and 14).
#include <cmath>

#include "model/blocks/affine.h"
#include "model/blocks/channel.h"
#include "model/blocks/ddim.h"
#include "model/blocks/latent_moments.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

using Kind = NoiseSchedule::Kind;

Tensor normals(at::IntArrayRef shape, uint64_t seed) {
  return draw(shape, {Draw::Kind::kNormal, 1}, seed, "noise_channel_test").to(at::kDouble);
}
double worst(const Tensor& a, const Tensor& b) {
  return (a - b).abs().max().item<double>();
}
Tensor grid() {
  return at::cat({at::logspace(-6, -2, 40, 10, at::kDouble), at::linspace(0.011, 1, 100, at::kDouble)});
}
/// Rows of norm sqrt(d_z).
Tensor unit_latents(at::IntArrayRef shape, uint64_t seed) {
  const Tensor u = normals(shape, seed);
  return u / u.square().mean(-1, true).sqrt();
}

TEST(NoiseSchedule, TableHasTheValuesOfThePaper) {
  const Tensor table = linear_schedule_table();
  EXPECT_EQ(table[0].item<double>(), 1);
  for (const auto& [t, abar] : {std::pair{1, 0.9999}, std::pair{100, 0.897018}, std::pair{200, 0.659039},
                                std::pair{500, 0.078587}, std::pair{1000, 4.0358e-5}})
    EXPECT_NEAR(table[t].item<double>(), abar, 1e-6) << t;
  EXPECT_LT(table.diff().max().item<double>(), 0);
}

TEST(NoiseSchedule, ContinuousFormFollowsTheTable) {
  const NoiseSchedule schedule;
  const Tensor s = at::arange(0, kScheduleSteps + 1, at::kDouble) / static_cast<double>(kScheduleSteps);
  EXPECT_LT(worst(schedule.log_abar(s).exp(), linear_schedule_table()), 1e-3);
  EXPECT_NEAR(schedule.log_abar(at::tensor({0.2}, at::kDouble)).exp().item<double>(), 0.658362, 1e-6);
}

TEST(NoiseSchedule, LevelsComeBackAndFallStrictly) {
  for (const Kind kind : {Kind::kLinear, Kind::kCosine}) {
    for (const bool terminal : {false, true}) {
      const NoiseSchedule schedule(kind, terminal);
      // The cosine rises so slowly that its first levels lie beyond the bound of the log-SNR.
      const Tensor all = kind == Kind::kCosine ? grid().slice(0, 25) : grid();
      const Tensor s = terminal ? all.slice(0, 0, -20) : all;
      const Tensor back = schedule.level(schedule.log_snr(s));
      EXPECT_LT(((back - s) / s).abs().max().item<double>(), terminal ? 1e-4 : 1e-6);
      EXPECT_LT(schedule.log_abar(std::get<0>(grid().sort())).diff().max().item<double>(), 0);
    }
  }
}

TEST(NoiseSchedule, NothingIsInfiniteAtTheEnds) {
  for (const Kind kind : {Kind::kLinear, Kind::kCosine}) {
    for (const bool terminal : {false, true}) {
      const NoiseSchedule schedule(kind, terminal);
      const Tensor ends = at::tensor({0.0, 1e-12, 1.0}, at::kFloat).requires_grad_();
      const Tensor log_snr = schedule.log_snr(ends);
      EXPECT_TRUE(log_snr.isfinite().all().item<bool>()) << log_snr;
      EXPECT_LE(log_snr.abs().max().item<double>(), kLogSnrBound);
      const Tensor level = schedule.level(at::tensor({-200.0, -20.0, 0.0, 20.0, 200.0}, at::kFloat));
      EXPECT_TRUE(level.isfinite().all().item<bool>()) << level;
      EXPECT_LE(level.max().item<double>(), 1);
      log_snr.sum().backward();
      EXPECT_TRUE(ends.grad().isfinite().all().item<bool>());
    }
  }
  const NoiseSchedule terminal(Kind::kLinear, true);
  EXPECT_LT(terminal.log_abar(at::ones({1}, at::kDouble)).exp().item<double>(), 1e-10);
}

TEST(Channel, MarginalsAreThoseOfTheForwardProcess) {
  const int64_t draws = 200000;
  const Tensor table = linear_schedule_table(), clean = at::full({1, draws, 1}, 1.3, at::kDouble);
  for (const int64_t t : {1, 100, 500, 1000}) {
    const double abar = table[t].item<double>();
    const Tensor lam = at::full({1, draws}, std::log(abar / (1 - abar)), at::kDouble);
    const Tensor z = diffuse(clean, lam, normals({1, draws, 1}, static_cast<uint64_t>(t)));
    const double sigma = std::sqrt((1 - abar) / static_cast<double>(draws));
    EXPECT_NEAR(z.mean().item<double>(), std::sqrt(abar) * 1.3, 5 * sigma) << t;
    EXPECT_NEAR(z.var().item<double>() / (1 - abar), 1, 0.02) << t;
  }
}

TEST(Channel, SingleStepsGiveTheOneShotMoments) {
  const int64_t draws = 20000;
  const Tensor table = linear_schedule_table();
  Tensor z = at::full({draws}, 1.3, at::kDouble);
  for (int64_t t = 1; t <= 500; ++t) {
    const double alpha = table[t].item<double>() / table[t - 1].item<double>();
    z = z * std::sqrt(alpha) + normals({draws}, static_cast<uint64_t>(t)) * std::sqrt(1 - alpha);
  }
  const double abar = table[500].item<double>();
  EXPECT_NEAR(z.mean().item<double>(), std::sqrt(abar) * 1.3, 5 / std::sqrt(static_cast<double>(draws)));
  EXPECT_NEAR(z.var().item<double>() / (1 - abar), 1, 0.05);
}

/// Moments of one latent's view equal those of a direct draw at the view's level.
TEST(Channel, PassesAreDegradedCopies) {
  const int64_t draws = 300000;
  // Two latents of width 1, side by side in every row.
  const Tensor clean = at::tensor({0.7, -1.1}, at::kDouble).view({1, 2, 1}).expand({draws, 2, 1});
  const Tensor lam = at::tensor({0.5, -0.4}, at::kDouble).view({1, 2}).expand({draws, 2});
  const Tensor mask = at::ones({draws, 2}, at::kBool);
  const PassView last{diffuse(clean, lam, normals({draws, 2, 1}, 1)), lam, mask};
  for (const bool pool : {false, true}) {
    const PassView view = degrade(last, 2, pool, normals({draws, pool ? 1 : 2, 1}, 2));
    EXPECT_EQ(view.group, pool ? 2 : 1);
    const Tensor abar = view.log_snr_BK[0].sigmoid();
    const Tensor signal = pool ? clean[0].mean(0, true) : clean[0];
    const Tensor mean = view.latent_BKZ.mean(0), variance = view.latent_BKZ.var(0);
    EXPECT_LT(worst(mean.flatten(), (abar.sqrt().unsqueeze(1) * signal).flatten()), 0.01);
    EXPECT_LT(worst(variance.flatten() / (1 - abar), at::ones({abar.size(0)}, at::kDouble)), 0.02);
  }
}

TEST(Channel, WithoutNoiseAViewIsExactAndALonelyLatentFollowsTheSingleRule) {
  const Tensor lam = at::zeros({1, 3}, at::kDouble), mask = at::ones({1, 3}, at::kBool);
  const PassView last{normals({1, 3, 4}, 1), lam, mask};
  // A latent without partner follows the formula of a single one.
  const PassView alone = degrade(last, 2, true, {}), single = degrade(last, 2, false, {});
  EXPECT_LT(worst(alone.latent_BKZ[0][1], single.latent_BKZ[0][2]), 1e-12);
  EXPECT_NEAR(alone.log_snr_BK[0][1].item<double>(), single.log_snr_BK[0][2].item<double>(), 1e-12);
  const Tensor wide = PassView::spread(alone.latent_BKZ, alone.group, 3);
  EXPECT_TRUE(at::equal(wide[0][0], wide[0][1]));
  EXPECT_EQ(wide.size(1), 3);
}

TEST(Channel, VelocityAlgebraIsExact) {
  const Tensor clean = normals({2, 5, 8}, 1), eps = normals({2, 5, 8}, 2), lam = normals({2, 5}, 3) * 3;
  const Tensor z = diffuse(clean, lam, eps);
  const Amplitudes here(lam, z);
  const Tensor v = velocity(here, clean, eps);
  EXPECT_LT(worst(clean_of(here, z, v, Prediction::kVelocity), clean), 1e-5);
  EXPECT_LT(worst(eps_of(here, z, v, Prediction::kVelocity), eps), 1e-5);
  EXPECT_LT(worst(eps_of(here, z, clean, Prediction::kClean), eps), 1e-5);
}

TEST(Ddim, AnOracleRecoversTheCleanLatent) {
  const NoiseSchedule schedule;
  const Tensor clean = unit_latents({2, 6, 16}, 1), lam = normals({2, 6}, 2) * 2;
  for (const int64_t steps : {1, 2, 5, 50}) {
    for (const bool noisy : {true, false}) {
      const Tensor eps = noisy ? normals({2, 6, 16}, 3) : at::zeros({2, 6, 16}, at::kDouble);
      const auto oracle = [&](const Tensor& z, const Tensor&, const Tensor& level) {
        const Amplitudes here(level, z);
        return velocity(here, clean, (z - here.signal * clean) / here.noise);
      };
      const auto estimates = ddim(schedule, diffuse(clean, lam, eps), lam, {.steps = steps}, oracle);
      EXPECT_EQ(static_cast<int64_t>(estimates.size()), steps);
      EXPECT_LT(worst(estimates.back(), clean), 1e-4) << steps;
    }
  }
}

TEST(Ddim, AnOracleRecoversFromPureNoise) {
  const NoiseSchedule schedule;
  const Tensor clean = unit_latents({1, 3, 16}, 1);
  const auto oracle = [&](const Tensor& z, const Tensor&, const Tensor& level) {
    const Amplitudes here(level, z);
    return velocity(here, clean, (z - here.signal * clean) / here.noise);
  };
  const Tensor lam = schedule.log_snr(at::ones({1, 3}, at::kDouble));
  for (uint64_t seed : {7, 8})
    EXPECT_LT(worst(ddim(schedule, normals({1, 3, 16}, seed), lam, {.steps = 8}, oracle).back(), clean),
              1e-4);
}

TEST(Ddim, WithoutADenoiserTheLatentIsScaled) {
  const NoiseSchedule schedule;
  const Tensor z = normals({1, 2, 4}, 1), lam = normals({1, 2}, 2);
  int calls = 0;
  const auto silent = [&](const Tensor& latent, const Tensor& before, const Tensor&) {
    ++calls;
    EXPECT_EQ(before.abs().max().item<double>(), 0);
    return at::zeros_like(latent);
  };
  const Tensor scaled = lam.sigmoid().sqrt().unsqueeze(-1) * z;
  for (const int64_t steps : {0, 1}) {
    EXPECT_LT(worst(ddim(schedule, z, lam, {.steps = steps}, silent).back(), scaled), 1e-12);
    EXPECT_EQ(calls, 1) << "one application with " << steps << " steps";
    calls = 0;
  }
}

TEST(Ddim, GradientsRunThroughAllStepsOrTheLast) {
  const NoiseSchedule schedule;
  for (const bool last_only : {false, true}) {
    const Tensor lam = at::full({1, 2}, 0.5, at::kDouble);
    std::vector<Tensor> factors;
    for (int step = 0; step < 3; ++step) factors.push_back(at::full({}, 0.3, at::kDouble).requires_grad_());
    int step = 0;
    const auto scaled = [&](const Tensor& z, const Tensor&, const Tensor&) { return z * factors[step++]; };
    ddim(schedule, normals({1, 2, 4}, 1), lam, {.steps = 3, .last_step_only = last_only}, scaled)
        .back()
        .sum()
        .backward();
    EXPECT_TRUE(factors[2].grad().defined());
    EXPECT_EQ(factors[0].grad().defined(), !last_only);
  }
}

/// The sampler written out in ATen calls, as the equations have it, beside its operators: the same bits.
TEST(Ddim, TheOperatorsOfTheCpuAreTheExpressions) {
  const NoiseSchedule schedule;
  constexpr int kSteps = 3;
  for (const Prediction kind : {Prediction::kVelocity, Prediction::kClean}) {
    const auto leaves = [] {
      return std::vector<Tensor>{normals({2, 5, 16}, 1).to(at::kFloat).requires_grad_(),
                                 normals({2, 5}, 2).to(at::kFloat).requires_grad_(),
                                 (normals({16, 16}, 3) / 4).to(at::kFloat).requires_grad_()};
    };
    const Tensor eps = normals({2, 5, 16}, 4).to(at::kFloat);
    const auto gradients = [](const Tensor& value, const std::vector<Tensor>& of) {
      return torch::autograd::grad({value.square().sum()}, of);
    };
    const std::vector<Tensor> in = leaves();
    const auto denoise = [](const Tensor& z, const Tensor& before, const Tensor& lam, const Tensor& weight) {
      return at::matmul(z + before, weight).tanh() * lam.sigmoid().unsqueeze(-1);
    };
    const Tensor found =
        ddim(schedule, diffuse(in[0], in[1], eps), in[1], {.steps = kSteps, .prediction = kind},
             [&](const Tensor& z, const Tensor& before, const Tensor& lam) {
               return denoise(z, before, lam, in[2]);
             })
            .back();

    const std::vector<Tensor> plain = leaves();
    const Tensor at_first = plain[1].unsqueeze(-1);
    Tensor z = at_first.sigmoid().sqrt() * plain[0] + (-at_first).sigmoid().sqrt() * eps;
    Tensor lam = plain[1], clean = at::zeros_like(z);
    const Tensor start = schedule.level(lam);
    for (int step = 0; step < kSteps; ++step) {
      const Tensor p = denoise(z, clean, lam, plain[2]);
      const Tensor s = lam.unsqueeze(-1).sigmoid().sqrt(), n = (-lam.unsqueeze(-1)).sigmoid().sqrt();
      const bool velocity = kind == Prediction::kVelocity;
      clean = velocity ? s * z - n * p : p;
      if (step + 1 == kSteps) break;
      lam = schedule.log_snr(start * (1 - static_cast<double>(step + 1) / kSteps));
      const Tensor noise = velocity ? n * z + s * p : (z - s * p) / n.clamp_min(1e-4);
      z = lam.unsqueeze(-1).sigmoid().sqrt() * clean + (-lam.unsqueeze(-1)).sigmoid().sqrt() * noise;
    }
    EXPECT_TRUE(at::equal(found, clean));
    const auto by_operators = gradients(found, in), by_expressions = gradients(clean, plain);
    EXPECT_TRUE(at::equal(by_operators[0], by_expressions[0]));
    EXPECT_TRUE(at::equal(by_operators[2], by_expressions[2]));
    // What reaches a level through amplitudes and denoiser is summed in an order that is autograd's own.
    EXPECT_LT(worst(by_operators[1], by_expressions[1]), 1e-5 * by_expressions[1].abs().max().item<double>());
  }
}

TEST(ChannelKl, ClosedFormsAgree) {
  const int64_t width = 24;
  const Tensor clean = unit_latents({3, 5, width}, 1);
  const Tensor lam = (normals({3, 5}, 2) * 3).requires_grad_();
  const Tensor rate = channel_kl(clean, lam);
  const Tensor mean = lam.sigmoid().sqrt().unsqueeze(-1) * clean;
  const Tensor log_variance = at::log_sigmoid(-lam).unsqueeze(-1).expand_as(clean);
  const Tensor general = gaussian_kl(mean, log_variance);
  EXPECT_LT(((rate - general) / general).abs().max().item<double>(), 1e-5);
  EXPECT_GE(rate.min().item<double>(), 0);
  EXPECT_LT(worst(channel_kl(clean, lam.unsqueeze(-1).expand_as(clean)), rate), 1e-9);
  const Tensor mixed = lam.unsqueeze(-1) + normals({width}, 3);
  EXPECT_LT(
      worst(channel_kl(clean, mixed), gaussian_kl(mixed.sigmoid().sqrt() * clean, at::log_sigmoid(-mixed))),
      1e-9);
  rate.sum().backward();
  EXPECT_LT(worst(lam.grad(), lam.detach().sigmoid() * (width / 2.0)), 1e-9);
}

TEST(ChannelKl, MonteCarloAgrees) {
  const int64_t width = 64, draws = 100000;
  const Tensor clean = unit_latents({1, 1, width}, 1), lam = at::full({1, 1}, 1.2, at::kDouble);
  const Tensor m = (lam.sigmoid().sqrt() * clean).view({1, width});
  const double variance = (-lam).sigmoid().item<double>();
  const Tensor z = m + std::sqrt(variance) * normals({draws, width}, 2);
  const Tensor log_ratio =
      ((z.square() - (z - m).square() / variance).sum(1) - width * std::log(variance)) / 2;
  EXPECT_NEAR(log_ratio.mean().item<double>() / channel_kl(clean, lam).item<double>(), 1, 0.02);
}

TEST(ChannelKl, TheFloorHoldsTheRateItPromises) {
  for (const auto& [ratio, width, expected] : {std::tuple{4, 512, -3.45}, std::tuple{16, 512, -2.02}}) {
    const double lam = lowest_log_snr(2, ratio, width);
    EXPECT_NEAR(lam, expected, 0.005);
    const Tensor rate = channel_kl(unit_latents({1, 1, width}, 1), at::full({1, 1}, lam, at::kDouble));
    EXPECT_NEAR(rate.item<double>(), 2.0 * ratio, 1e-9);
  }
  testing::expect_error(ErrorKind::kUsage, "compressor.rho", [] { lowest_log_snr(1e4, 32, 2); });
}

TEST(Channel, LevelTrainingStaysAboveTheFloor) {
  const Tensor lam = at::tensor({3.0, -1.0, 2.0, -2.5}, at::kFloat).view({1, 4});
  const Tensor mask = at::arange(4).lt(3).view({1, 4});
  for (const double share : {0.0, 0.4, 0.999}) {
    const Tensor lowered = lam - (level_room(lam, mask, -3) * share).unsqueeze(1);
    EXPECT_GE(lowered.masked_select(mask).min().item<double>(), -3);
    EXPECT_NEAR((lam - lowered)[0][0].item<double>(), share * 2, 1e-6);  // the lowest real latent has room 2
  }
}

TEST(LatentMoments, TightRateOfConstantAndOfWhiteLatents) {
  const int64_t width = 16, count = 64 * width;
  const double lam = 1.5, abar = 1 / (1 + std::exp(-lam)), rate = width / 2.0 * std::log1p(std::exp(lam));
  const Tensor noise = at::full({count, width}, 1 - abar, at::kFloat),
               rates = at::full({count}, rate, at::kFloat);
  const Tensor constant = unit_latents({1, width}, 1).to(at::kFloat).expand({count, width}) * std::sqrt(abar);
  // White by construction: the second moment of an orthogonal set is exactly the identity.
  const Tensor axes = at::eye(width, at::kFloat) * std::sqrt(static_cast<double>(width) * abar);
  const Tensor white = at::cat({axes, -axes}).repeat({count / (2 * width), 1});
  for (const auto& [latents, expected] : {std::pair{constant, 0.0}, std::pair{white, rate}}) {
    LatentMoments moments(width, count);
    const auto result = moments.include(latents, noise, rates, true);
    ASSERT_TRUE(result.covariance_ZZ.defined());
    EXPECT_NEAR(rate_tight(result.rate, result.covariance_ZZ).item<double>(), expected, 1e-3 * rate);
  }
}

TEST(LatentMoments, SilentUntilTheWindowIsFullAndThenForgets) {
  LatentMoments moments(4, 32);
  const Tensor noise = at::full({16, 4}, 0.1, at::kFloat), rates = at::ones({16}, at::kFloat);
  const auto latents = [](uint64_t seed) { return normals({16, 4}, seed).to(at::kFloat); };
  EXPECT_FALSE(moments.include(latents(1), noise, rates, true).covariance_ZZ.defined());
  const Tensor exact = at::cat({latents(1), latents(2)});
  const Tensor found = moments.include(latents(2), noise, rates, true).covariance_ZZ;
  const Tensor centred = exact - exact.mean(0);
  EXPECT_LT(worst(found, at::matmul(centred.t(), centred) / 32 + at::eye(4) * 0.1), 1e-5);
  // Looking does not change the window.
  const Tensor once = moments.include(latents(3), noise, rates, false).covariance_ZZ;
  EXPECT_TRUE(at::equal(once, moments.include(latents(3), noise, rates, false).covariance_ZZ));
  for (uint64_t i = 0; i < 40; ++i) moments.include(at::zeros({16, 4}), noise, rates, true);
  EXPECT_LT(worst(moments.include(at::zeros({16, 4}), noise, rates, false).covariance_ZZ, at::eye(4) * 0.1),
            1e-4);
}

TEST(LatentMoments, TheAggregateTermMovesACollapsedBatchApart) {
  const int64_t width = 8, count = 64;
  Tensor u = (at::ones({count, width}, at::kFloat) + 1e-3 * normals({count, width}, 1).to(at::kFloat));
  double before = 0;
  for (int step = 0; step < 50; ++step) {
    const Tensor leaf = u.detach().requires_grad_();
    const Tensor clean = unit_rms(leaf);
    LatentMoments moments(width, count);
    const auto result = moments.include(clean * std::sqrt(0.9), at::full({count, width}, 0.1, at::kFloat),
                                        at::ones({count}, at::kFloat), true);
    const Tensor loss = aggregate_loss(result.covariance_ZZ);
    EXPECT_GE(loss.item<double>(), 0);
    if (step == 0) before = clean.var(0).sum().item<double>();
    loss.backward();
    u = leaf.detach() - leaf.grad() * 20;
  }
  EXPECT_GT(unit_rms(u).var(0).sum().item<double>(), 100 * before);
}

TEST(Denoising, MinSnrWeightsAreThoseOfThePage) {
  const Tensor weight = min_snr_weight(at::tensor({1.0, 5.0, 100.0}, at::kDouble).log());
  EXPECT_LT(worst(weight, at::tensor({0.5, 5.0 / 6, 5.0 / 101}, at::kDouble)), 1e-12);
  // One term, whichever of the two is predicted.
  const Tensor log_snr = at::tensor({-2.0, 0.3, 2.5}, at::kDouble);
  const Tensor clean = at::ones({3, 1}, at::kDouble), off = at::full({3, 1}, 0.7, at::kDouble);
  const Tensor z = diffuse(clean, log_snr, at::full({3, 1}, -0.4, at::kDouble));
  const Amplitudes here(log_snr, z);
  const auto velocity_of = [&](const Tensor& guess) { return (here.signal * z - guess) / here.noise; };
  const Tensor error = (velocity_of(off) - velocity_of(clean)).square().squeeze(1);
  EXPECT_LT(worst(min_snr_weight(log_snr) * error, min_snr_weight(log_snr, true) * 0.09), 1e-12);
  // Largest where SNR is 5, and finite at both bounds of the log-SNR.
  const Tensor all = min_snr_weight(at::linspace(-kLogSnrBound, kLogSnrBound, 401, at::kFloat));
  EXPECT_TRUE(all.isfinite().all().item<bool>());
  EXPECT_GT(all.min().item<double>(), 0);
  EXPECT_LE(all.max().item<double>(), 5.0 / 6 + 1e-6);
}

}  // namespace
}  // namespace ctxc
