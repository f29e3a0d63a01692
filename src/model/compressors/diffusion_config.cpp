#include "model/compressors/diffusion_config.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "model/blocks/channel.h"
#include "model/blocks/layer_mix.h"
#include "model/blocks/text_slice.h"

namespace ctxc {
namespace {

void describe_encoder(DiffusionConfig& c, Fields& f) {
  f("ratio", c.ratio, "context tokens per slot: 2, 4, 8, 16 or 32").min(2).max(32);
  f("chunk", c.chunk, "tokens compressed at a time; the integration state is carried from chunk to chunk")
      .min(2)
      .unit("tokens");
  f("width", c.width, "width of encoder and denoiser").min(2);
  f("heads", c.heads, "attention heads").min(1);
  f("latent_width", c.latent_width, "width of the latents that pass the channel").min(2);
  f("window", c.window, "local attention: rows on either side, at every level of the encoder").min(1);
  f("layers", c.layers,
    "frozen hidden states read: four spread over the lower three quarters, all, the embedding, or "
    "those of layer_list")
      .one_of({"spread", "all", "embedding", "list"});
  f("layer_list", c.layer_list, "hidden states read with layers: list; 0 is the embedding").min(0);
  f("pool", c.pool, "how pairs of neighbours become one: the ordered merge, or a control")
      .one_of({"concat", "attn_rot", "attn", "mean_linear", "mean"});
  f("pos", c.pos, "position code of the method's own attention; offset = a learned place inside the window")
      .one_of({"rope", "alibi", "offset", "none"});
  f("init", c.init,
    "slots start at random, near a low-rank mean of the window's embeddings, near a low-rank copy of its "
    "first one, or as its first one, which stays in the latents as a residual (latent_width = the base's "
    "width)")
      .one_of({"random", "pca", "pca_first", "residual"});
}

void describe_channel(DiffusionConfig& c, Fields& f) {
  f("channel", c.channel, "vp: forward diffusion; vae: Gaussian posterior; none: no noise")
      .one_of({"vp", "vae", "none"});
  f("schedule", c.schedule, "noise schedule").one_of({"linear", "cosine"});
  f("zero_terminal_snr", c.zero_terminal_snr, "rescale the schedule so that nothing is left at its end");
  f("lam_shared", c.lam_shared, "one trained log-SNR for all latents");
  f("lam_per_dim", c.lam_per_dim, "a trained offset of the log-SNR for each dimension");
  f("level_train", c.level_train,
    "train with lowered log-SNRs half of the time, so one model covers all levels");
  f("lam_start", c.lam_start, "log-SNR at the start of training").min(-15).max(15);
  f("lam_max", c.lam_max, "highest log-SNR").min(-15).max(15);
  f("rho", c.rho, "lowest rate of the channel").above(0).unit("nats per source token");
  f("infer_noise", c.infer_noise, "noise of the channel outside of training").one_of({"zero", "seeded"});
  f("infer_level", c.infer_level,
    "outside of training: the step t of the schedule at which every latent is read, 0 (clean) to 1000; null "
    "= the "
    "level each has learned")
      .min(0)
      .max(1000);
  f("noise_seed", c.noise_seed, "of infer_noise: seeded and start: gaussian outside of training").min(0);
}

void describe_denoiser(DiffusionConfig& c, Fields& f) {
  f("start", c.start, "where the reverse process begins: at each latent's own level, or at pure noise")
      .one_of({"channel", "gaussian"});
  f("denoiser", c.denoiser, "small U-Net behind the channel, or its flat control").one_of({"unet", "flat"});
  f("cond", c.cond, "what tells the denoiser its level").one_of({"lsnr", "constant"});
  f("prediction", c.prediction, "what the denoiser predicts: the velocity, or the clean latent")
      .one_of({"v", "x0"});
  f("bptt_steps", c.bptt_steps, "sampling steps that carry gradients").one_of({"all", "last"});
  f("steps", c.steps, "J: sampling steps; 0 = scaled latent, denoiser applied once").min(0).max(50);
  f("passes", c.passes, "P: readings of the whole source at falling noise").min(1).max(8);
  f("state", c.state, "M: vectors of the integration state; 0 = none").min(0);
  f("tbptt_chunks", c.tbptt_chunks, "chunks of a block within which the gradient runs back through the state")
      .min(1);
  f("view_pool", c.view_pool, "earlier passes also see pooled latents; null = with passes > 1");
  f("skip_bypass", c.skip_bypass, "ablation: a connection around the channel; rates mean nothing then");
  f.section("noise", c.noise, "the noise in the position code");
}

void describe_output(DiffusionConfig& c, Fields& f) {
  f("slots", c.slots,
    "what the decoder reads: every latent; with several chunks the first state vectors too, the oldest slots "
    "merged in pairs for them; the integration state alone (constant in the text's length); or blocks of "
    "slots "
    "merged like a binary counter, old text coarse, recent text fine")
      .one_of({"latents", "latents+state", "state_only", "log"});
  f("slot_positions", c.slot_positions,
    "decoder positions: gapless behind the head, or at the mean source position")
      .one_of({"contiguous", "spread"});
  f("sink", c.sink, "the decoder reads a head (BOS) before the slots");
  f("kl_mode", c.kl_mode,
    "term kl: excess over a target rate, or the rate itself in nats per latent dimension")
      .one_of({"target", "beta"});
  f("rho_target", c.rho_target, "rate that kl_mode: target asks for").above(0).unit("nats per source token");
  f("kl_ramp", c.kl_ramp,
    "first and last step of the ramp: target falls from the initial rate, beta rises from 0")
      .min(0)
      .unit("steps");
  f("denoise", c.denoise, "compute the term denoise (one or two more evaluations of the denoiser)");
  f("dn_detach", c.dn_detach, "term denoise: no gradient to the encoder");
  f("dn_per_latent_t", c.dn_per_latent_t, "term denoise: a level a latent; false = a level a context");
  f("dn_weighting", c.dn_weighting, "term denoise: weight of a level").one_of({"simple", "minsnr"});
  f("recon", c.recon, "build the up path and compute the term recon");
  f("position", c.position, "compute the term position: neighbours' distance from their clean estimates");
}

}  // namespace

void DiffusionNoise::describe(Fields& f) {
  f("rope", rope,
    "integrated: RoPE of the denoiser averaged over the position's uncertainty, which grows with noise")
      .one_of({"off", "integrated"});
}

void DiffusionConfig::describe(Fields& f) {
  describe_encoder(*this, f);
  describe_channel(*this, f);
  describe_denoiser(*this, f);
  describe_output(*this, f);
}

int64_t DiffusionConfig::levels() const {
  int64_t levels = 0;
  while ((int64_t{1} << levels) < ratio) ++levels;
  return levels;
}

std::vector<int64_t> DiffusionConfig::layers_read(const LlamaConfig& backbone) const {
  return layers_to_read(layers, layer_list, backbone.num_layers);
}

double DiffusionConfig::lowest() const {
  return lowest_log_snr(rho, ratio, latent_width);
}

PathOptions DiffusionConfig::path() const {
  return {.width = width,
          .heads = heads,
          .levels = levels(),
          .window = window,
          .pool = pool_named(pool),
          .code = position_code_named(pos),
          .start = path_start_named(init)};
}

DenoiserOptions DiffusionConfig::denoiser_options() const {
  DenoiserOptions options;
  options.width = width;
  options.latent_width = latent_width;
  options.heads = heads;
  options.state = state;
  options.flat = denoiser == "flat";
  options.reads_channel = start == "gaussian";
  options.bypass = skip_bypass;
  options.integrated = noise.rope == "integrated";
  options.spread = static_cast<double>(ratio);
  if (cond == "constant") options.fixed_log_snr = lam_start;
  options.code = position_code_named(pos);
  return options;
}

NoiseSchedule DiffusionConfig::noise_schedule() const {
  return NoiseSchedule(schedule == "cosine" ? NoiseSchedule::Kind::kCosine : NoiseSchedule::Kind::kLinear,
                       zero_terminal_snr);
}

void DiffusionConfig::check(const LlamaConfig& backbone) const {
  CTXC_CHECK(ratio == int64_t{1} << levels(), ErrorKind::kUsage, "choose 2, 4, 8, 16 or 32",
             "compressor.ratio: pairs are merged, so it must be a power of two (found {}, expected {} or {})",
             ratio, int64_t{1} << (levels() - 1), int64_t{1} << levels());
  check_slices(chunk, ratio, width, heads, backbone);
  CTXC_CHECK(
      init != "residual" || latent_width == backbone.hidden_size, ErrorKind::kUsage,
      fmt::format("set compressor.latent_width: {}", backbone.hidden_size),
      "compressor.init: residual keeps an embedding of the base in each latent (found latent_width {}, "
      "expected the base's width {})",
      latent_width, backbone.hidden_size);
  const double floor = lowest();
  CTXC_CHECK(lam_start > floor && lam_start < lam_max, ErrorKind::kUsage,
             "lower rho, or raise latent_width, lam_start or lam_max",
             "compressor.lam_start: outside of the channel's range (found {}, expected above {:.4g}, which "
             "is rho = {} "
             "nats a token, and below lam_max {})",
             lam_start, floor, rho, lam_max);
  CTXC_CHECK(!infer_level || channel == "vp", ErrorKind::kUsage, "set infer_level: null",
             "compressor.infer_level: only channel: vp has levels (found channel: {})", channel);
  CTXC_CHECK(kl_ramp.size() == 2 && kl_ramp[0] <= kl_ramp[1], ErrorKind::kUsage,
             "write 'kl_ramp: [100, 600]'",
             "compressor.kl_ramp: not a first and a last step (found {} numbers, expected 2 in rising order)",
             kl_ramp.size());
  CTXC_CHECK(noise.rope == "off" || pos == "rope", ErrorKind::kUsage, "set compressor.noise.rope: off",
             "compressor.noise.rope: integrated needs pos: rope (found pos: {})", pos);
  CTXC_CHECK(
      !reads_state() || (state > 0 && slot_positions == "contiguous"), ErrorKind::kUsage,
      "set compressor.state above 0, and slot_positions: contiguous",
      "compressor.slots: {} reads the integration state, which stands nowhere in the text (found state "
      "{}, slot_positions: {})",
      slots, state, slot_positions);
  CTXC_CHECK(!lam_per_dim || (channel == "vp" && passes == 1), ErrorKind::kUsage, "set lam_per_dim: false",
             "compressor.lam_per_dim: only with channel: vp and one pass (found channel: {}, passes {})",
             channel, passes);
  check_layers(layers, layer_list, backbone.num_layers);
}

}  // namespace ctxc
