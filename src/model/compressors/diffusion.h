// The class of the method `diffusion`; equations in diffusion.cpp and diffusion_losses.cpp.
#pragma once
#include <algorithm>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "model/blocks/channel.h"
#include "model/blocks/ddim.h"
#include "model/blocks/latent_moments.h"
#include "model/blocks/layer_mix.h"
#include "model/blocks/row_noise.h"
#include "model/blocks/slice_memory.h"
#include "model/blocks/slot_head.h"
#include "model/blocks/text_slice.h"
#include "model/compressors/diffusion_config.h"

namespace ctxc {

/// The trained up half of the U-Net and the position head: of losses only.
struct DiffusionLossParts {
  std::shared_ptr<UpPath> up;
  std::shared_ptr<Affine> distance;
};

class Diffusion : public Compressor {
 public:
  using Config = DiffusionConfig;
  Diffusion(Config config, CompressorSetup setup);

  Needs needs() const override;
  int64_t ratio() const override { return config_.ratio; }
  int64_t slots_for(int64_t tokens) const override { return rule().vectors_for(tokens, config_.chunk); }
  std::string config_yaml() const override { return dump_config(config_); }
  std::map<std::string, std::string> idle_parameters() const override;
  std::vector<std::string> undecayed_parameters() const override;
  Compressed compress(Context& context, const StepKey& key, const State& in = {}) override;

 private:
  struct Encoded {
    Tensor top_BKD, clean_BKZ;
    Tensor log_snr_BK;    ///< of the channel, before level training
    Tensor offset_Z;      ///< lam_per_dim, else undefined
    Tensor log_variance;  ///< channel: vae [B, K, Z], else undefined
    std::vector<Places> places;
    const Places& latents() const { return places.back(); }
    /// Levels for `diffuse`: [B, K], or [B, K, Z] with per-dimension offsets.
    Tensor levels(const Tensor& log_snr_BK) const {
      return offset_Z.defined() ? log_snr_BK.unsqueeze(-1) + offset_Z : log_snr_BK;
    }
  };
  /// What the reverse process gave for a chunk.
  struct Reversed {
    Tensor clean_BKZ, features_BKD, state_BMD;
    std::vector<Tensor> estimates;  ///< of the last pass, all steps
  };
  /// Sums over the chunks of a batch, from which the terms are made.
  struct Ledger {
    double tokens = 0, latents = 0;
    std::vector<Tensor> rates, kls;                 ///< [n] valid latents: capacity, KL
    std::vector<Tensor> signals, noises, log_snrs;  ///< [n, Z], [n, Z], [n]
    Tensor denoise, recon, position;                ///< sums
    double recon_rows = 0, position_pairs = 0, denoise_latents = 0;
    Tensor error_T, power_T;  ///< of the prediction by decile of the level
  };
  /// What stays the same over the chunks of a call.
  struct Run {
    const StepKey& key;
    const RowNoise& noise;
    bool noisy;
    int64_t chunks;
    Tensor lowered_B;   ///< level training: what every log-SNR of a sample is lowered by; else undefined
    Tensor denoise_B1;  ///< dn_per_latent_t: false: the level of a sample; else undefined
  };

  /// All of one chunk.
  struct Piece {
    TextSlice chunk;
    Encoded encoded;
    std::vector<PassView> views;  ///< of every pass, the first one first
    Reversed reversed;            ///< of the last pass
    Tensor carried;               ///< the state the last pass began with
  };

  TextSlice cut(const Context& context, const Tensor& mixed_PD, int64_t index) const;
  /// init: residual. unit_rms of the first embedding of every latent's window [B, K, Z], else undefined.
  Tensor first_embeddings(const Context& context, const TextSlice& chunk) const;
  Encoded encode(const TextSlice& chunk, const Tensor& residual_BKZ) const;
  Tensor log_snr(const Tensor& top_BKD) const;
  Tensor lowered(const std::vector<Piece>& pieces, const RowNoise& noise) const;
  PassView through_channel(const Encoded& encoded, const Run& run, int64_t chunk) const;
  std::vector<PassView> views(const Encoded& encoded, const Run& run, int64_t chunk) const;
  /// Every pass over all chunks in order, the state carried on.
  /// The state after all, where there is one.
  Tensor read_passes(std::vector<Piece>& pieces, int64_t batch, const Run& run) const;
  Reversed reverse(const Piece& piece, int64_t pass, const Tensor& state, const Run& run) const;
  MemoryRule rule() const;
  /// What the decoder reads of the pieces and of the state after them.
  Memory lay_out(const Context& context, const std::vector<Piece>& pieces, const Tensor& state_BMD) const;

  void account(Ledger& ledger, const Encoded& encoded, const TextSlice& chunk) const;
  void add_recon(Ledger& ledger, const Piece& piece) const;
  void add_position(Ledger& ledger, const Piece& piece) const;
  void add_denoise(Ledger& ledger, const Piece& piece, const Run& run) const;
  Tensor visited_up_to(const Piece& piece) const;
  Tensor denoise_level(const std::vector<Piece>& pieces, const Run& run) const;
  Tensor denoise_levels(const Piece& piece, const Run& run) const;
  Terms terms(const Ledger& ledger, const Run& run, int64_t slots);
  Tensor kl_term(const Ledger& ledger, int64_t step) const;
  double ramp(int64_t step) const;
  void warn_of_collapse(bool collapsed);

  Config config_;
  CompressorSetup setup_;
  NoiseSchedule schedule_;
  double lowest_ = 0;
  std::shared_ptr<LayerMix> mix_;
  Tensor place_RD_;  ///< pos: offset
  std::shared_ptr<DownPath> down_;
  std::shared_ptr<Matrix> latent_, variance_;
  Tensor level_weight_D_, level_bias_, level_offset_Z_;
  std::shared_ptr<Denoiser> denoiser_;
  std::shared_ptr<SlotHead> out_, state_out_;  ///< of latents, of the state
  std::shared_ptr<PairPool> merge_;            ///< of slots that are merged with each other
  DiffusionLossParts parts_;
  std::shared_ptr<LatentMoments> moments_;
  bool collapsed_ = false;
};

}  // namespace ctxc
