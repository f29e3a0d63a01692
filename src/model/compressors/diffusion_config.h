// The keys of the method `diffusion` (diffusion.md section 11) and the checks between them.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "core/config.h"
#include "model/blocks/denoiser.h"
#include "model/blocks/noise_schedule.h"
#include "model/compressor.h"

namespace ctxc {

struct DiffusionNoise {
  std::string rope = "integrated";
  void describe(Fields& f);
};

struct DiffusionConfig {
  int64_t ratio = 4, chunk = 512;
  // encoder
  int64_t width = 256, heads = 4, latent_width = 256, window = 64;
  std::string layers = "spread";
  std::vector<int64_t> layer_list;
  std::string pool = "concat", pos = "rope", init = "random";
  // channel
  std::string channel = "vp", schedule = "linear";
  bool zero_terminal_snr = false, lam_shared = false, lam_per_dim = false, level_train = true;
  double lam_start = 3, lam_max = 8, rho = 2;
  std::string infer_noise = "zero";
  std::optional<int64_t> infer_level;
  int64_t noise_seed = 0;
  // reverse process
  std::string start = "channel", denoiser = "unet", cond = "lsnr", prediction = "v", bptt_steps = "all";
  int64_t steps = 2, passes = 1, state = 32, tbptt_chunks = 2;
  std::optional<bool> view_pool;
  bool skip_bypass = false;
  DiffusionNoise noise;
  // slots
  std::string slots = "latents", slot_positions = "contiguous";
  bool sink = true;
  // losses (weights are in section `objective`)
  std::string kl_mode = "target";
  double rho_target = 16;
  std::vector<int64_t> kl_ramp = {100, 600};
  bool denoise = true, dn_detach = true, dn_per_latent_t = true, recon = true, position = false;
  std::string dn_weighting = "simple";

  void describe(Fields& f);
  /// Error kUsage naming the key.
  void check(const LlamaConfig& backbone) const;

  int64_t levels() const;  ///< S = log2 ratio
  bool reads_state() const { return slots == "latents+state" || slots == "state_only"; }
  bool reads_latents() const { return slots != "state_only"; }
  bool pools_views() const { return view_pool.value_or(passes > 1); }
  std::vector<int64_t> layers_read(const LlamaConfig& backbone) const;
  double lowest() const;  ///< lam_min
  PathOptions path() const;
  DenoiserOptions denoiser_options() const;
  NoiseSchedule noise_schedule() const;
};

}  // namespace ctxc
