// The progressive semantic compressor (progressive.md; no published code or numbers exist for it): a long
// text is read slice by slice, every slice is down-sampled coarse to fine, and a buffer of fixed size sums up
// what was read before. Per slice of n tokens, with H^l the states of the frozen base, which reads each slice
// for itself:
//   x = sum_l softmax(w)_l W_l rms(H^l)                              [B, n, d]  blocks/layer_mix
//   y = down-sampling of x to K = ceil(n / r) rows by clustering of neighbours, reading the buffer U from the
//       second level on                                              [B, K, d]  blocks/scale_path
//   U <- GatedState(U; y): attention over [y ; U], gate, SwiGLU, norm [B, M_U, d]  blocks/gated_state
//   slots = (W rms(y) + b) e_rms, buffer vectors = (W_u rms(U) + b_u) e_rms        blocks/slot_head
//   (init: residual: slots = (W rms[y ; E] + b + E) e_rms with E = rms of the first embedding of the cluster)
// The decoder reads [head ; first M vectors of U ; slots], together at most ceil(N / r)
// (blocks/slice_memory). With P passes the whole source is read P times, r 4^(P - p) tokens a
// latent in pass p, and only the last pass gives slots: early slices then know late ones. Gradients run back
// through U over blocks of tbptt_chunks = n slices: slice c reaches slices floor(c / n) n to c, so the first
// slice of a block reaches none before it (a window that slides with c would take n runs of every slice). The
// first block of a pass reaches the last one of the pass before. Terms: recon = 1 -
// cos(up path of y, x) over real tokens, x detached; nce = InfoNCE between latents and the mean middle-layer
// states of their tokens (blocks/contrast). Auto-encoding through the decoder is the data's
// (`data.train[].reconstruction`). Logged: vectors_read, ratio_effective, nce_negatives.
#include "model/compressors/progressive.h"

#include <algorithm>
#include <cmath>

#include "core/log.h"
#include "model/budget.h"

namespace ctxc {
namespace {

constexpr int64_t kContrastWidth = 128;
constexpr double kLargestScale = 100;
constexpr double kNearWindows = 4;  ///< latents of one sample within so many windows are no negatives

Tensor scalar(double value, const Tensor& like) {
  return at::full({}, value, like.options().dtype(at::kFloat).requires_grad(false));
}

}  // namespace

Progressive::Progressive(Config config, CompressorSetup setup)
    : config_(std::move(config)), setup_(std::move(setup)) {
  config_.check(setup_.backbone);
  const int64_t width = config_.width, model = setup_.backbone.hidden_size;
  const uint64_t seed = setup_.seed;
  // Without the table (a dry run, or a checkpoint that is about to be loaded) the start does not matter.
  const bool residual = config_.init == "residual";
  const bool pca = config_.init.starts_with("pca") && setup_.embedding_VD.defined();
  const Tensor directions =
      pca ? principal_directions(setup_.embedding_VD.to(at::kCPU, at::kFloat), width) : Tensor();
  layers_ = layers_to_read(config_.layers, config_.layer_list, setup_.backbone.num_layers);
  mix_ = register_module("mix", std::make_shared<LayerMix>(static_cast<int64_t>(layers_.size()), model, width,
                                                           seed, "mix", directions));
  down_ = register_module("down", std::make_shared<ScaleDown>(config_.scale(), seed, "down"));
  if (config_.kept_slices() != int64_t{0}) {
    const int64_t features = width + (residual ? model : 0);
    out_ = register_module("out", make_slot_head(features, model, seed, "out"));
    if (pca) start_along(*out_, directions, 0);
    if (residual) out_->start_at_residual(width);
    if (config_.has_buffer() || config_.slots == "log")
      merge_ =
          register_module("merge", std::make_shared<PairPool>(features, config_.heads, Pool::kConcat, seed,
                                                              "merge", slot_merge_start_named(config_.init)));
  }
  if (config_.has_buffer()) {
    buffer_ = register_module(
        "buffer", std::make_shared<GatedState>(config_.state, width, config_.heads, seed, "buffer",
                                               GatedStateOptions{.reads_itself = true,
                                                                 .running_mean = config_.buffer == "merge",
                                                                 .feed_forward = true}));
    buffer_out_ = register_module("buffer_out", make_slot_head(width, model, seed, "buffer_out"));
  }
  if (config_.recon) up_ = register_module("up", std::make_shared<ScaleUp>(config_.scale(), seed, "up"));
  if (!config_.nce) return;
  project_latent_ = register_module(
      "project_latent", std::make_shared<Projector>(width, width, kContrastWidth, seed, "project_latent"));
  project_text_ = register_module(
      "project_text", std::make_shared<Projector>(model, width, kContrastWidth, seed, "project_text"));
  log_scale_ = register_parameter("log_scale", at::full({1}, -std::log(config_.nce_temperature), at::kFloat));
  queue_ = register_module("queue", std::make_shared<ContrastQueue>(config_.nce_queue, kContrastWidth));
}

Needs Progressive::needs() const {
  std::vector<int64_t> read = layers_;
  const int64_t middle = setup_.backbone.num_layers / 2;
  if (config_.nce && std::find(read.begin(), read.end(), middle) == read.end()) read.push_back(middle);
  const int64_t highest = *std::max_element(read.begin(), read.end());
  // One layer more than the highest state read: the last layer run is followed by the final norm.
  return {.hidden = read,
          .layers = std::min(highest + 1, setup_.backbone.num_layers),
          .lora = false,
          .kv = false};
}

MemoryRule Progressive::rule() const {
  return {.ratio = config_.ratio,
          .state = config_.has_buffer() ? config_.state : 0,
          .slices = config_.kept_slices(),
          .logarithmic = config_.slots == "log"};
}

int64_t Progressive::slots_for(int64_t tokens) const {
  return rule().vectors_for(tokens, config_.chunk);
}

std::map<std::string, std::string> Progressive::idle_parameters() const {
  std::map<std::string, std::string> idle;
  if (scale_levels(config_.scale(), config_.ratio_of_pass(1)) > 1) return idle;
  for (const auto& item : named_parameters())
    if (item.key().starts_with("down.level.buffer") || item.key() == "down.level.gate")
      idle[item.key()] = "one level, and the buffer is read from the second on";
  return idle;
}

std::vector<std::string> Progressive::undecayed_parameters() const {
  return buffer_ ? std::vector<std::string>{"buffer.initial"} : std::vector<std::string>{};
}

Progressive::Cut Progressive::cut_of(const StepKey& key) const {
  Cut cut{config_.chunk, rule()};
  if (!key.training) return cut;
  // The same for every sample of a step: nothing of a row may depend on its company.
  CounterRng rng(key.seed, "progressive.cut", static_cast<uint64_t>(key.step),
                 static_cast<uint64_t>(key.micro));
  const int64_t parts = 1 + static_cast<int64_t>(rng.below(static_cast<uint64_t>(config_.random_slices)));
  const int64_t part = (config_.chunk + parts - 1) / parts;
  cut.slice_tokens = (part + config_.ratio - 1) / config_.ratio * config_.ratio;
  if (rng.uniform() < config_.random_keep && config_.has_buffer()) {
    cut.rule.slices = 0;
    cut.rule.logarithmic = false;
  }
  return cut;
}

std::vector<Progressive::Piece> Progressive::read(const Context& context, const Tensor& mixed_PD,
                                                  const Cut& cut, SliceMemory& memory) const {
  std::vector<Piece> pieces;
  for (int64_t c = 0; c < slices_of(context, cut.slice_tokens); ++c)
    pieces.push_back({cut_slice(context, mixed_PD, cut.slice_tokens, c, 1), {}});
  if (buffer_ && !memory.buffer_BMD.defined()) memory.buffer_BMD = buffer_->start(context.batch());
  for (int64_t pass = 1; pass <= config_.passes; ++pass)
    for (size_t c = 0; c < pieces.size(); ++c) {
      Piece& piece = pieces[c];
      const TextSlice& slice = piece.slice;
      Tensor& buffer = memory.buffer_BMD;
      const bool cut_here = c > 0 && static_cast<int64_t>(c) % config_.tbptt_chunks == 0;
      if (buffer_ && cut_here) buffer = buffer.detach();
      piece.down = down_->forward(slice.x_BND, slice.from_the_end(slice.tokens), slice.lengths,
                                  config_.ratio_of_pass(pass), buffer);
      if (buffer_) {
        const AttentionRule everything{.code = position_code_named(config_.pos), .proportional = true};
        const Tensor count_B = memory.next_update(slice.lengths, buffer);
        buffer = buffer_->update(buffer, piece.down.x_BKD, piece.down.latents(), everything, count_B);
      }
      if (pass == config_.passes) memory.add(slice, with_residual(context, piece), piece.down.latents());
    }
  return pieces;
}

Tensor Progressive::with_residual(const Context& context, const Piece& piece) const {
  if (config_.init != "residual" || !out_) return piece.down.x_BKD;
  const Tensor latent_BN = piece.down.latent_of_token();
  const int64_t batch = latent_BN.size(0), tokens = latent_BN.size(1), latents = piece.down.x_BKD.size(1);
  // The first token of each latent; the last column takes the padding.
  const Tensor column_BN = at::arange(tokens, latent_BN.options()).expand({batch, tokens});
  const Tensor first_BK = at::full({batch, latents + 1}, tokens, latent_BN.options())
                              .scatter_reduce(1, latent_BN, column_BN, "amin")
                              .slice(1, 0, latents);
  return at::cat({piece.down.x_BKD, embeddings_at(context, piece.slice, first_BK)}, -1);
}

Compressed Progressive::compress(Context& context, const StepKey& key, const State& in) {
  CTXC_CHECK(in.empty() || stream_tokens() > 0, ErrorKind::kUsage, "set compressor.passes: 1",
             "progressive: {} passes need the whole text (found a state to continue)", config_.passes);
  const Cut cut = cut_of(key);
  const Needs needed = needs();
  const std::vector<Tensor> hidden = context.hidden(needed.hidden, needed.layers, cut.slice_tokens);
  const Tensor mixed_PD =
      mix_->forward({hidden.begin(), hidden.begin() + static_cast<int64_t>(layers_.size())});
  SliceMemory memory(cut.rule, context.batch(), merge_.get(), in, cut.slice_tokens);
  const std::vector<Piece> pieces = read(context, mixed_PD, cut, memory);

  Compressed result;
  result.memory = lay_out_memory(context, setup_, memory, config_.sink, out_.get(), buffer_out_.get(),
                                 config_.slot_positions == "spread");
  check_budget(result.memory, memory.tokens(), config_.ratio);
  const double vectors = result.memory.mask_BK.sum().item<double>();
  double tokens = 0;
  for (const int64_t read_so_far : memory.tokens()) tokens += static_cast<double>(read_so_far);
  result.aux["vectors_read"] = scalar(vectors, mixed_PD);
  result.aux["ratio_effective"] = scalar(tokens / std::max(vectors, 1.0), mixed_PD);
  // A batch of empty contexts alone has no pieces: its terms are there all the same, and ask for nothing.
  if (key.training && config_.recon) {
    result.aux["recon"] = scalar(0, mixed_PD);
    add_recon(result.aux, pieces);
  }
  if (key.training && config_.nce) {
    result.aux["nce"] = result.aux["nce_negatives"] = scalar(0, mixed_PD);
    const auto middle = std::find(needed.hidden.begin(), needed.hidden.end(), setup_.backbone.num_layers / 2);
    add_contrast(result.aux, pieces, hidden[static_cast<size_t>(middle - needed.hidden.begin())],
                 cut.slice_tokens);
  }
  if (!key.training && stream_tokens() > 0) result.state = memory.state();
  return result;
}

void Progressive::add_recon(Terms& terms, const std::vector<Piece>& pieces) const {
  Tensor sum;
  double rows = 0;
  for (const Piece& piece : pieces) {
    const Tensor found = up_->forward(piece.down.x_BKD, piece.down);
    const auto [distance, count] =
        cosine_distance(found, piece.slice.x_BND.detach(), piece.slice.tokens.mask);
    const Tensor part = distance * count;
    sum = sum.defined() ? sum + part : part;
    rows += count;
  }
  if (sum.defined()) terms["recon"] = sum / std::max(rows, 1.0);
}

void Progressive::add_contrast(Terms& terms, const std::vector<Piece>& pieces, const Tensor& middle_PD,
                               int64_t slice_tokens) {
  std::vector<Tensor> latents, texts, samples, positions;
  const Tensor padded_PD = at::cat({middle_PD, at::zeros({1, middle_PD.size(1)}, middle_PD.options())});
  for (const Piece& piece : pieces) {
    const Places& places = piece.down.latents();
    const int64_t batch = places.mask.size(0), count = places.mask.size(1);
    const Tensor row_B1 = at::arange(batch, piece.slice.packed_BN.options()).unsqueeze(1);
    const Tensor index = (piece.down.latent_of_token() + row_B1 * (count + 1)).flatten();
    Tensor mean;
    {
      const at::NoGradGuard no_grad;
      const Tensor states = padded_PD.index_select(0, piece.slice.packed_BN.flatten()).to(at::kFloat);
      mean = at::zeros({batch * (count + 1), states.size(1)}, states.options())
                 .index_add(0, index, states)
                 .view({batch, count + 1, -1})
                 .slice(1, 0, count) /
             places.size.clamp_min(1).unsqueeze(-1);
    }
    const Tensor real = places.mask.flatten().nonzero().squeeze(1);
    latents.push_back(piece.down.x_BKD.flatten(0, 1).index_select(0, real));
    texts.push_back(mean.flatten(0, 1).index_select(0, real));
    samples.push_back(row_B1.expand({batch, count}).flatten().index_select(0, real));
    // Positions count from the last token of the slice; from the text's beginning here.
    const Tensor begin = piece.slice.last_B1 + static_cast<double>(piece.slice.index * slice_tokens);
    positions.push_back((places.position + begin).flatten().index_select(0, real));
  }
  if (latents.empty()) return;
  const ContrastPairs pairs{.a_NE = project_latent_->forward(at::cat(latents)),
                            .b_NE = project_text_->forward(at::cat(texts)),
                            .sample_N = at::cat(samples),
                            .position_N = at::cat(positions),
                            .queue_a_QE = queue_->a(),
                            .queue_b_QE = queue_->b()};
  const Tensor scale = log_scale_.exp().clamp_max(kLargestScale);
  const ContrastResult result = info_nce(pairs, scale, kNearWindows * static_cast<double>(config_.ratio));
  queue_->push(pairs.a_NE, pairs.b_NE);
  terms["nce"] = result.loss.defined() ? result.loss : scalar(0, pairs.a_NE);
  terms["nce_negatives"] = scalar(result.negatives, pairs.a_NE);
  if (!result.loss.defined() && !told_) {
    log_info(
        fmt::format("progressive: too few negatives for the term nce, which is left out of this step (found "
                    "{:.0f} on average, expected at least {})",
                    result.negatives, kFewestNegatives));
    told_ = true;
  }
}

CTXC_REGISTER_COMPRESSOR("progressive", Progressive,
                         "clusters of neighbours, slice by slice, with a buffer that sums up what was read");

}  // namespace ctxc
