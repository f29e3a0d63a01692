// The denoiser F of the diffusion-noise compressor (diffusion.md section 5): from noised latents z at log-SNR
// lam, the estimate of the step before and the integration state G to a prediction (v or z0), features y and
// the next G.
//   c = MLP(sin_64(lam) ++ sin_64(pass) ++ sin_64(passes)), SiLU; zero-initialised heads give (shift, scale,
//   gate) of
//       every sub-layer:  y += (0.1 + gate) Sub((1 + scale) rms(y) + shift)
//   y = W_z [z ; zhat_before]
//   unet  block (SelfAttn, SwiGLU) -> ordered merge of pairs -> bottleneck (SelfAttn, CrossAttn to G,
//   SwiGLU), which
//         reads and writes G -> split d -> 2d, added through a gate to the first block's output -> block
//   flat  two blocks of SelfAttn, CrossAttn to G, SwiGLU
//   v = W_v rms(y), W_v zero-initialised: the start of training is close to "pool, norm, project"
// Everything F sees has passed the channel: its skips carry z and nothing of the encoder. With `integrated`,
// RoPE is damped by the position's uncertainty sigma^2 = n^2 / 12 + sigma_n^2 (1 - abar)
// (blocks/float_rope.h).
#pragma once
#include <optional>
#include <vector>

#include "model/blocks/down_path.h"
#include "model/blocks/gated_state.h"

namespace ctxc {

struct DenoiserOptions {
  int64_t width = 0, latent_width = 0, heads = 0;
  int64_t state = 0;           ///< vectors of G; 0 = none
  bool flat = false;           ///< the control without a bottleneck
  bool reads_channel = false;  ///< also attends to W_c z_start (start: gaussian)
  bool bypass = false;         ///< ablation: adds a projection of the encoder's output, around the channel
  bool integrated = true;      ///< integrated RoPE
  double spread = 0;           ///< sigma_n, source tokens
  std::optional<double> fixed_log_snr;  ///< conditioning that does not tell the level (cond: constant)
  PositionCode code = PositionCode::kRope;
  double window = 2048;  ///< of the self-attention, source tokens
};

/// What one evaluation of F sees besides z.
struct DenoiserView {
  Places places;            ///< of the latents, positions relative to the end of the chunk; with sizes
  Tensor state_BMD = {};    ///< G, where there is one
  Tensor channel_BKZ = {};  ///< z_start, for reads_channel
  Tensor bypass_BKD = {};   ///< for bypass
  int64_t pass = 1, passes = 1;
};

class Denoiser : public torch::nn::Module {
 public:
  Denoiser(const DenoiserOptions& options, uint64_t seed, const std::string& name);
  struct Result {
    Tensor predicted_BKZ, features_BKD, state_BMD;  ///< float32
  };
  Result forward(const Tensor& z_BKZ, const Tensor& clean_before_BKZ, const Tensor& log_snr_BK,
                 const DenoiserView& view) const;
  const std::shared_ptr<GatedState>& state() const { return state_; }

 private:
  /// Sub-layers of one block; `cross` only where there is something to attend to.
  struct Block : torch::nn::Module {
    std::shared_ptr<MultiHeadAttention> self, cross;
    std::shared_ptr<FeedForward> feed_forward;
    std::shared_ptr<Affine> condition;
  };
  std::shared_ptr<Block> make_block(const std::string& part, bool cross, uint64_t seed,
                                    const std::string& name);
  /// The keys of the cross-attention and where they stand.
  std::pair<Tensor, Places> outside(const DenoiserView& view) const;
  Tensor run_block(const Block& block, Tensor y_BKD, const Tensor& condition_BKD, const Places& places,
                   const DenoiserView& view) const;
  Tensor condition(const Tensor& log_snr_BK, const DenoiserView& view) const;
  AttentionRule rule(double window) const { return {options_.code, window, 0, false}; }
  Tensor bottleneck(const Tensor& y_BKD, const Tensor& condition_BKD, const Tensor& noise_BK,
                    const DenoiserView& view, Tensor& state) const;
  Tensor update_state(const Tensor& y_BKD, const Places& places, const DenoiserView& view) const;
  Places uncertain(Places places, const Tensor& noise_BK) const;

  DenoiserOptions options_;
  std::shared_ptr<Affine> embed_;
  std::shared_ptr<Matrix> in_, split_, channel_, bypass_;
  std::shared_ptr<Affine> split_gate_;
  std::vector<std::shared_ptr<Block>> blocks_;  ///< unet: first, bottleneck, last; flat: first, last
  std::shared_ptr<PairPool> merge_;
  std::shared_ptr<GatedState> state_;
  std::shared_ptr<Matrix> out_;
};

}  // namespace ctxc
