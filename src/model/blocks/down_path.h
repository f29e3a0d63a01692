// The down and the up half of a U-Net over tokens (Ronneberger et al., 2015; diffusion.md sections 3 and 7).
// Down, S levels of: x += LocalAttn(rms x); x += SwiGLU(rms x); pool pairs. Level s attends within 64 *
// 2^(s-1) source tokens, i.e. 64 rows. Positions and sizes are carried (blocks/ordered_merge.h). Up, for the
// reconstruction loss only: every latent is split into its two members by a linear map d -> 2d a level, then
// x += LocalAttn(rms x); at last a linear map. Its skips are none: it sees the latents alone.
#pragma once
#include <vector>

#include "model/blocks/feed_forward.h"
#include "model/blocks/ordered_merge.h"

namespace ctxc {

struct PathOptions {
  int64_t width = 0, heads = 0, levels = 0;
  int64_t window = 64;  ///< rows either side, at every level
  Pool pool = Pool::kConcat;
  PositionCode code = PositionCode::kRope;
  PathStart start = PathStart::kRandom;
};

class DownPath : public torch::nn::Module {
 public:
  DownPath(const PathOptions& options, uint64_t seed, const std::string& name);
  struct Result {
    Tensor x_BKD;
    std::vector<Places> places;  ///< of every level, the tokens first
  };
  /// x [B, N, d], any N; `places` with sizes.
  Result forward(Tensor x_BND, Places places) const;

 private:
  struct Level : torch::nn::Module {
    std::shared_ptr<MultiHeadAttention> attention;
    std::shared_ptr<FeedForward> feed_forward;
    std::shared_ptr<PairPool> pool;
  };
  PathOptions options_;
  std::vector<std::shared_ptr<Level>> levels_;
};

class UpPath : public torch::nn::Module {
 public:
  UpPath(const PathOptions& options, int64_t latent_width, uint64_t seed, const std::string& name);
  /// Latents [B, K, Z] back to the rows of places[0]: [B, N, d].
  Tensor forward(const Tensor& latent_BKZ, const std::vector<Places>& places) const;

 private:
  struct Level : torch::nn::Module {
    std::shared_ptr<Matrix> split;
    std::shared_ptr<MultiHeadAttention> attention;
  };
  PathOptions options_;
  std::shared_ptr<Matrix> in_, out_;
  std::vector<std::shared_ptr<Level>> levels_;  ///< the coarsest first
};

/// Members of each row [B, K, 2d] -> [B, rows, d], the first `rows` of them.
Tensor split_pairs(const Tensor& joined_BK2D, int64_t rows);

/// Mean over real rows of 1 - cos(x, target); also their number.
std::pair<Tensor, double> cosine_distance(const Tensor& x_BND, const Tensor& target_BND,
                                          const Tensor& mask_BN);

/// The rule of local attention at a level (0 = tokens).
AttentionRule local_rule(const PathOptions& options, int64_t level);

}  // namespace ctxc
