// The diffusion-noise compressor: context compression as a forward diffusion process, undone in a few steps
// (diffusion.md; no published code or numbers exist for it). What makes it one method: the compression
// channel IS the forward process. Per chunk of the context, with H^l the frozen hidden states:
//   x   = sum_l softmax(w)_l W_l rms(H^l)                          [B, N, d]    blocks/layer_mix
//   x_S = U-Net down path: S = log2 r levels                       [B, K, d]    blocks/down_path
//   z0  = u / rms(u), u = W_mu x_S, so ||z0||^2 = d_z              [B, K, d_z]
//   (init: residual: u = rms(E_first) + W_mu x_S, with the first embedding of the latent's window)
//   lam = lam_min + (lam_max - lam_min) sigmoid(c + w . rms(x_S))  [B, K]       each latent's own place on
//   the schedule z   = sqrt(abar) z0 + sqrt(1 - abar) eps, abar = sigmoid(lam)               blocks/channel;
//   eps = 0 at inference zhat0, y, G = J DDIM steps of the denoiser from s(lam) to 0 blocks/ddim,
//   blocks/denoiser C   = (W_out rms[y ; zhat0] + b) e_rms                         [B, K, D]    e_rms: rms of
//   the embedding table
// KL(z || N(0, I)) = (d_z / 2) softplus(lam) is the channel's rate: noise level, compression level and rate
// are one number. Nothing of the source reaches the decoder around z (lam itself is seen by the denoiser as
// its condition). Chunks are read in order and G is carried; with P > 1 the whole source is read P times at
// falling noise. Gradients run back through G over blocks of tbptt_chunks = n chunks, as truncated
// back-propagation usually does: chunk c reaches chunks floor(c / n) n to c, so the first chunk of a block
// reaches none before it (a window that slides with c would take n runs of every chunk). The first block of
// a pass reaches the last one of the pass before.
#include "model/compressors/diffusion.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "model/blocks/full_precision.h"
#include "model/budget.h"

namespace ctxc {
namespace {

/// Noise taken away between two passes: lam_{p+1} - lam_p.
constexpr double kPassDelta = 2;

}  // namespace

Diffusion::Diffusion(Config config, CompressorSetup setup)
    : config_(std::move(config)), setup_(std::move(setup)), schedule_(config_.noise_schedule()) {
  config_.check(setup_.backbone);
  lowest_ = config_.lowest();
  const int64_t width = config_.width, latent = config_.latent_width, model = setup_.backbone.hidden_size;
  const uint64_t seed = setup_.seed;
  // Without the table (a dry run, or a checkpoint that is about to be loaded) the start does not matter.
  const bool residual = config_.init == "residual";
  const bool pca = config_.init.starts_with("pca") && setup_.embedding_VD.defined();
  const Tensor directions =
      pca ? principal_directions(setup_.embedding_VD.to(at::kCPU, at::kFloat), std::max(width, latent))
          : Tensor();
  mix_ = register_module("mix", std::make_shared<LayerMix>(
                                    static_cast<int64_t>(config_.layers_read(setup_.backbone).size()), model,
                                    width, seed, "mix", pca ? directions.slice(0, 0, width) : Tensor()));
  if (config_.pos == "offset")
    place_RD_ =
        register_parameter("place", draw({config_.ratio, width}, {Draw::Kind::kNormal, 0.02}, seed, "place"));
  down_ = register_module("down", std::make_shared<DownPath>(config_.path(), seed, "down"));
  latent_ = register_module("latent", pca ? std::make_shared<Matrix>(at::eye(latent, width, at::kFloat))
                                          : make_matrix(width, latent, seed, "latent", residual ? 0 : 1));
  if (config_.channel == "vae")
    variance_ = register_module("variance", make_matrix(width, latent, seed, "variance", 0.1));
  if (config_.channel == "vp") {
    const double share = (config_.lam_start - lowest_) / (config_.lam_max - config_.lam_start);
    if (!config_.lam_shared)
      level_weight_D_ = register_parameter("level_weight", at::zeros({width}, at::kFloat));
    level_bias_ = register_parameter("level_bias", at::full({1}, std::log(share), at::kFloat));
    if (config_.lam_per_dim)
      level_offset_Z_ = register_parameter("level_offset", at::zeros({latent}, at::kFloat));
  }
  denoiser_ =
      register_module("denoiser", std::make_shared<Denoiser>(config_.denoiser_options(), seed, "denoiser"));
  if (config_.reads_latents()) {
    out_ = register_module("out", make_slot_head(width + latent, model, seed, "out"));
    if (pca) start_along(*out_, directions.slice(0, 0, latent), width);
    if (residual) out_->start_at_residual(width);
  }
  if (config_.reads_state())
    state_out_ = register_module("state_out", make_slot_head(width, model, seed, "state_out"));
  if (config_.slots == "log" || config_.slots == "latents+state")
    merge_ = register_module(
        "merge", std::make_shared<PairPool>(width + latent, config_.heads, Pool::kConcat, seed, "merge",
                                            slot_merge_start_named(config_.init)));
  if (config_.recon)
    parts_.up = register_module("up", std::make_shared<UpPath>(config_.path(), latent, seed, "up"));
  if (config_.position)
    parts_.distance = register_module("distance", make_linear(2 * latent, 1, seed, "distance"));
  moments_ = register_module("moments", std::make_shared<LatentMoments>(latent, 4 * latent));
}

Needs Diffusion::needs() const {
  const std::vector<int64_t> read = config_.layers_read(setup_.backbone);
  const int64_t highest = *std::max_element(read.begin(), read.end());
  // One layer more than the highest state read: the last layer run is followed by the final norm.
  return {.hidden = read,
          .layers = std::min(highest + 1, setup_.backbone.num_layers),
          .lora = false,
          .kv = false};
}

std::map<std::string, std::string> Diffusion::idle_parameters() const {
  std::map<std::string, std::string> idle;
  if (!config_.reads_state() && config_.bptt_steps == "last" && config_.steps > 1 && config_.state > 0)
    for (const auto& item : denoiser_->state()->named_parameters())
      if (item.key() != "initial")
        idle["denoiser.state." + item.key()] =
            "the first sampling step reads the state, and carries no gradient";
  return idle;
}

std::vector<std::string> Diffusion::undecayed_parameters() const {
  return config_.state > 0 ? std::vector<std::string>{"denoiser.state.initial"} : std::vector<std::string>{};
}

Compressed Diffusion::compress(Context& context, const StepKey& key, const State& in) {
  CTXC_CHECK(in.empty(), ErrorKind::kUsage, "give all of the text at once, or use the method progressive",
             "diffusion: needs the whole text (found a state to continue)");
  const StepKey at_rest{
      .seed = static_cast<uint64_t>(config_.noise_seed), .step = 0, .micro = 0, .training = false};
  const RowNoise noise(context, key.training ? key : at_rest);
  const Needs needed = needs();
  const Tensor mixed_PD = mix_->forward(context.hidden(needed.hidden, needed.layers));
  Run run{.key = key,
          .noise = noise,
          .noisy = config_.channel != "none" && (key.training || config_.infer_noise == "seeded"),
          .chunks = slices_of(context, config_.chunk),
          .lowered_B = {},
          .denoise_B1 = {}};

  std::vector<Piece> pieces;
  for (int64_t c = 0; c < run.chunks; ++c) {
    Piece piece{
        .chunk = cut(context, mixed_PD, c), .encoded = {}, .views = {}, .reversed = {}, .carried = {}};
    piece.encoded = encode(piece.chunk, first_embeddings(context, piece.chunk));
    if (config_.infer_level && !key.training) {
      const Tensor asked = at::full_like(piece.encoded.log_snr_BK, static_cast<double>(*config_.infer_level));
      piece.encoded.log_snr_BK = schedule_.log_snr(asked / static_cast<double>(kScheduleSteps));
    }
    pieces.push_back(std::move(piece));
  }
  if (key.training && config_.level_train && config_.channel == "vp") run.lowered_B = lowered(pieces, noise);
  for (Piece& piece : pieces) piece.views = views(piece.encoded, run, piece.chunk.index);
  const Tensor state = read_passes(pieces, context.batch(), run);

  Ledger ledger;
  if (key.training && config_.denoise && !config_.dn_per_latent_t)
    run.denoise_B1 = denoise_level(pieces, run);
  for (const Piece& piece : pieces) {
    account(ledger, piece.encoded, piece.chunk);
    if (!key.training) continue;
    if (config_.denoise) add_denoise(ledger, piece, run);
    if (config_.recon) add_recon(ledger, piece);
    if (config_.position) add_position(ledger, piece);
  }
  Compressed result;
  result.memory = lay_out(context, pieces, state);
  check_budget(result.memory, context.lengths(), config_.ratio);
  result.aux = terms(ledger, run, result.memory.mask_BK.sum().item<int64_t>());
  return result;
}

TextSlice Diffusion::cut(const Context& context, const Tensor& mixed_PD, int64_t index) const {
  TextSlice chunk = cut_slice(context, mixed_PD, config_.chunk, index, config_.ratio);
  if (place_RD_.defined())
    chunk.x_BND = chunk.x_BND + place_RD_.repeat({chunk.x_BND.size(1) / config_.ratio, 1}) *
                                    chunk.tokens.mask.to(at::kFloat).unsqueeze(-1);
  return chunk;
}

Tensor Diffusion::log_snr(const Tensor& top_BKD) const {
  const FullPrecision full;
  if (config_.channel != "vp")
    return at::full({top_BKD.size(0), top_BKD.size(1)}, config_.lam_start,
                    top_BKD.options().dtype(at::kFloat));
  Tensor raw_BK = level_bias_.expand({top_BKD.size(0), top_BKD.size(1)});
  if (level_weight_D_.defined()) raw_BK = raw_BK + at::matmul(unit_rms(top_BKD), level_weight_D_);
  return raw_BK.sigmoid() * (config_.lam_max - lowest_) + lowest_;
}

Tensor Diffusion::first_embeddings(const Context& context, const TextSlice& chunk) const {
  if (config_.init != "residual") return {};
  const int64_t batch = chunk.packed_BN.size(0), columns = chunk.packed_BN.size(1);
  const Tensor first_K = at::arange(0, columns, config_.ratio, chunk.packed_BN.options());
  return embeddings_at(context, chunk, first_K.expand({batch, -1}));
}

Diffusion::Encoded Diffusion::encode(const TextSlice& chunk, const Tensor& residual_BKZ) const {
  DownPath::Result down = down_->forward(chunk.x_BND, chunk.tokens);
  Encoded encoded;
  encoded.top_BKD = down.x_BKD;
  encoded.places = std::move(down.places);
  Tensor mean = linear(encoded.top_BKD, *latent_).to(at::kFloat);
  if (residual_BKZ.defined()) mean = mean + residual_BKZ;
  encoded.clean_BKZ = config_.channel == "vae" ? mean : unit_rms(mean);
  encoded.log_snr_BK = log_snr(encoded.top_BKD);
  encoded.offset_Z = level_offset_Z_;
  if (variance_)
    encoded.log_variance = (linear(unit_rms(encoded.top_BKD), *variance_).to(at::kFloat) - config_.lam_start);
  return encoded;
}

Tensor Diffusion::lowered(const std::vector<Piece>& pieces, const RowNoise& noise) const {
  const Tensor coins = noise.uniform("diffusion.level", 2);
  const Tensor share_B = coins.select(1, 1) * coins.select(1, 0).lt(0.5).to(at::kFloat);
  Tensor room_B;
  for (const Piece& piece : pieces) {
    const Tensor here_B = level_room(piece.encoded.log_snr_BK, piece.encoded.latents().mask, lowest_);
    room_B = room_B.defined() ? at::minimum(room_B, here_B) : here_B;
  }
  return room_B.defined() ? share_B * room_B : room_B;
}

PassView Diffusion::through_channel(const Encoded& encoded, const Run& run, int64_t chunk) const {
  const std::string stream = "diffusion.channel/" + std::to_string(chunk);
  const Tensor& mask = encoded.latents().mask;
  const Tensor eps = run.noisy ? run.noise.normal(stream, mask.size(1), config_.latent_width) : Tensor();
  if (variance_) {
    const Tensor noise = eps.defined() ? (encoded.log_variance / 2).exp() * eps : Tensor();
    return {noise.defined() ? encoded.clean_BKZ + noise : encoded.clean_BKZ, encoded.log_snr_BK, mask};
  }
  Tensor log_snr_BK = encoded.log_snr_BK;
  if (run.lowered_B.defined()) log_snr_BK = log_snr_BK - run.lowered_B.unsqueeze(1);
  return {diffuse(encoded.clean_BKZ, encoded.levels(log_snr_BK), eps), log_snr_BK, mask};
}

std::vector<PassView> Diffusion::views(const Encoded& encoded, const Run& run, int64_t chunk) const {
  // The chain is drawn from the last pass backwards and read forwards.
  std::vector<PassView> chain{through_channel(encoded, run, chunk)};
  for (int64_t p = config_.passes - 1; p > 0; --p) {
    const bool pool = config_.pools_views();
    const int64_t rows = pool ? (chain.back().mask_BK.size(1) + 1) / 2 : chain.back().mask_BK.size(1);
    const std::string stream = "diffusion.pass/" + std::to_string(chunk) + "/" + std::to_string(p);
    const Tensor eps = run.noisy ? run.noise.normal(stream, rows, config_.latent_width) : Tensor();
    chain.push_back(degrade(chain.back(), kPassDelta, pool, eps));
  }
  std::reverse(chain.begin(), chain.end());
  return chain;
}

Tensor Diffusion::read_passes(std::vector<Piece>& pieces, int64_t batch, const Run& run) const {
  Tensor state = config_.state > 0 ? denoiser_->state()->start(batch) : Tensor();
  for (int64_t pass = 1; pass <= config_.passes; ++pass) {
    for (size_t c = 0; c < pieces.size(); ++c) {
      Piece& piece = pieces[c];
      const bool cut_here = c > 0 && static_cast<int64_t>(c) % config_.tbptt_chunks == 0;
      if (state.defined() && cut_here) state = state.detach();
      piece.carried = state;
      piece.reversed = reverse(piece, pass, state, run);
      state = piece.reversed.state_BMD;
    }
  }
  return state;
}

Diffusion::Reversed Diffusion::reverse(const Piece& piece, int64_t pass, const Tensor& state,
                                       const Run& run) const {
  const PassView& seen = piece.views[static_cast<size_t>(pass - 1)];
  DenoiserView view;
  view.places = piece.chunk.from_the_end(piece.encoded.latents());
  view.state_BMD = state;
  view.pass = pass;
  view.passes = config_.passes;
  if (config_.skip_bypass) view.bypass_BKD = piece.encoded.top_BKD;
  const int64_t latents = view.places.mask.size(1);
  Tensor z = PassView::spread(seen.latent_BKZ, seen.group, latents);
  Tensor log_snr = PassView::spread(seen.log_snr_BK, seen.group, latents);
  if (config_.start == "gaussian") {
    view.channel_BKZ = z;
    // Drawn without a look at the text: it must not carry even a hash of it.
    z = run.noise.common_normal(
        "diffusion.start/" + std::to_string(piece.chunk.index) + "/" + std::to_string(pass), latents,
        config_.latent_width);
    log_snr = schedule_.log_snr(at::ones_like(log_snr));
  } else if (level_offset_Z_.defined()) {
    log_snr = log_snr.unsqueeze(-1) + level_offset_Z_;
  }
  Reversed out;
  const auto denoise = [&](const Tensor& latent, const Tensor& before, const Tensor& level) {
    const Tensor level_BK = level.dim() == 3 ? level.mean(-1) : level;
    Denoiser::Result result = denoiser_->forward(latent, before, level_BK, view);
    if (result.state_BMD.defined()) view.state_BMD = result.state_BMD;
    out.features_BKD = result.features_BKD;
    return result.predicted_BKZ;
  };
  const DdimOptions options{
      .steps = config_.steps,
      .prediction = config_.prediction == "v" ? Prediction::kVelocity : Prediction::kClean,
      .last_step_only = config_.bptt_steps == "last"};
  out.estimates = ddim(schedule_, z, log_snr, options, denoise);
  out.clean_BKZ = out.estimates.back();
  out.state_BMD = view.state_BMD;
  return out;
}

MemoryRule Diffusion::rule() const {
  MemoryRule rule{.ratio = config_.ratio,
                  .state = config_.reads_state() ? config_.state : 0,
                  .slices = std::nullopt,
                  .logarithmic = config_.slots == "log"};
  if (!config_.reads_latents()) rule.slices = 0;
  return rule;
}

Memory Diffusion::lay_out(const Context& context, const std::vector<Piece>& pieces,
                          const Tensor& state_BMD) const {
  SliceMemory memory(rule(), context.batch(), merge_.get(), {}, config_.chunk);
  memory.buffer_BMD = state_BMD;
  for (const Piece& piece : pieces) {
    // Blocks are merged behind the channel: what is stored of old text is bounded by the rate, too.
    const Tensor features =
        at::cat({piece.reversed.features_BKD, piece.reversed.clean_BKZ}, -1).to(at::kFloat);
    memory.add(piece.chunk, features, piece.chunk.from_the_end(piece.encoded.latents()));
  }
  return lay_out_memory(context, setup_, memory, config_.sink, out_.get(), state_out_.get(),
                        config_.slot_positions == "spread");
}

CTXC_REGISTER_COMPRESSOR("diffusion", Diffusion,
                         "a channel of learned noise levels, undone by a few denoising steps");

}  // namespace ctxc
