// Pooling of pairs of neighbours (diffusion.md section 3). The default, the ordered merge,
//   out = W_L rms(x_1) + W_R rms(x_2)
// encodes the place of a member in WHICH matrix is applied to it, so that a merged vector still tells who
// stood where (a sum over a window forgets it: the binding bottleneck). A masked member enters as zeros; a
// window without members gives zeros. Controls:
//   mean         masked mean
//   mean_linear  masked mean, then two linear maps: the merge's parameter count
//   attn         masked mean + sum_i softmax_i(w_h . x_i) (V x_i)_h, a score a head
//   attn_rot     the same with each value turned by the RoPE rotation of its offset p_i - pbar
// Sizes and positions are carried in all: n = n_1 + n_2, pbar = (n_1 p_1 + n_2 p_2) / n, the exact mean
// position of the source tokens below.
#pragma once
#include "model/blocks/local_attention.h"

namespace ctxc {

/// Where the matrices of a path start: drawn; or so that a merged vector is near its members' mean, or near
/// its first member, with quiet residual branches.
enum class PathStart { kRandom, kMean, kFirst };
/// random | pca | pca_first | residual (the key `init` of the methods): of the path from tokens to latents.
PathStart path_start_named(const std::string& init);
/// The same of a merge of finished slots' features: with `residual` their embeddings stay the first member's.
PathStart slot_merge_start_named(const std::string& init);

enum class Pool { kConcat, kMean, kMeanLinear, kAttention, kRotatedAttention };
/// concat | mean | mean_linear | attn | attn_rot
Pool pool_named(const std::string& name);

/// Rows [B, N, ...] side by side in pairs [B, ceil(N / 2), 2, ...]; an odd last one stands beside zeros.
Tensor in_pairs(const Tensor& rows);

/// Size-weighted positions, sizes and masks of the pairs. `places` needs its sizes.
Places merged_places(const Places& places);

/// Mean of pairs weighted by their sizes, [B, N, ...] to [B, ceil(N / 2), ...].
Tensor weighted_pair_mean(const Tensor& rows, const Tensor& size_BN);

class PairPool : public torch::nn::Module {
 public:
  /// The merge starts at I/2 on either side (kMean), or at I on the left and 0 on the right (kFirst), plus
  /// normal noise of deviation 0.02.
  PairPool(int64_t width, int64_t heads, Pool kind, uint64_t seed, const std::string& name,
           PathStart start = PathStart::kRandom);
  /// x [B, N, d] to [B, ceil(N / 2), d].
  Tensor forward(const Tensor& x_BND, const Places& places) const;

 private:
  Tensor attention_pool(const Tensor& x_BK2D, const Places& places) const;

  Pool kind_;
  int64_t heads_;
  std::shared_ptr<Matrix> left_, right_;  ///< concat: W_L, W_R; mean_linear: first and second map
  std::shared_ptr<Matrix> score_, value_;
};

}  // namespace ctxc
