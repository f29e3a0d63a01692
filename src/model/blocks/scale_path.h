// Multi-scale down-sampling of a slice (progressive.md sections 2 and 3), and its mirror. Level by level:
//   x += LocalAttn(rms x);  x += sigmoid(g) CrossAttn(rms x, U) from the second level on, U the buffer that
//   sums up what was read before;  x += SwiGLU(rms x);  then the pairs of a MergePlan (blocks/merge_plan.h)
//   go through the ordered merge (blocks/ordered_merge.h), and single rows through a linear map of their own
// With `cluster` and `global` a level is mild (n to 3/4 n), all levels share their weights and attention is
// proportional to the members' sizes; with `window` each of the log2(r) levels halves and has weights of its
// own. Positions count from the slice's last token.
#pragma once
#include <vector>

#include "model/blocks/feed_forward.h"
#include "model/blocks/gated_state.h"
#include "model/blocks/merge_plan.h"
#include "model/blocks/ordered_merge.h"

namespace ctxc {

struct ScaleOptions {
  int64_t width = 0, heads = 0;
  int64_t longest = 512;  ///< tokens of a whole slice
  int64_t ratio = 4;      ///< the coarsest that is asked for
  int64_t window = 64;  ///< local attention at the first level: tokens on either side; doubles as rows halve
  Reduce reduce = Reduce::kCluster;
  Pool pool = Pool::kConcat;
  PositionCode code = PositionCode::kRope;
  double size_penalty = 0.05;  ///< tau_n
  bool reads_buffer = true;    ///< with cross-attention to U
  PathStart start = PathStart::kRandom;
};

/// Levels for a ratio: log2(ratio), or as many mild ones as it takes.
int64_t scale_levels(const ScaleOptions& options, int64_t ratio);
/// The rule of local attention at a level (0 = tokens).
AttentionRule scale_rule(const ScaleOptions& options, int64_t level);

class ScaleDown : public torch::nn::Module {
 public:
  ScaleDown(const ScaleOptions& options, uint64_t seed, const std::string& name);
  struct Result {
    Tensor x_BKD;
    std::vector<int64_t> lengths;  ///< K of each row: ceil(tokens / ratio)
    std::vector<Places> places;    ///< of every level, the tokens first
    std::vector<MergePlan> plans;
    const Places& latents() const { return places.back(); }
    /// int64 [B, N]: the latent that each token became part of; K for padding.
    Tensor latent_of_token() const;
  };
  /// x [B, N, d] of `lengths` tokens a row; buffer [B, M, d] or undefined.
  Result forward(Tensor x_BND, Places places, std::vector<int64_t> lengths, int64_t ratio,
                 const Tensor& buffer_BMD) const;

 private:
  struct Level : torch::nn::Module {
    std::shared_ptr<MultiHeadAttention> attention, buffer;
    std::shared_ptr<FeedForward> feed_forward;
    std::shared_ptr<PairPool> pool;
    std::shared_ptr<Matrix> single;  ///< of rows that no pair took
    Tensor gate;                     ///< g, one number
  };
  std::shared_ptr<Level> make_level(bool reads_buffer, uint64_t seed, const std::string& full);
  const Level& level(int64_t index) const;
  MergePlan plan(const Level& level, const Tensor& normed, const Places& places,
                 const std::vector<int64_t>& lengths, const std::vector<int64_t>& targets) const;

  ScaleOptions options_;
  std::vector<std::shared_ptr<Level>> levels_;  ///< one that all share, or one each
};

/// Undoes the recorded merges for the reconstruction loss: latents [B, K, d] back to the slice's rows; a
/// linear map d -> 2d splits a merged row, single rows have one of their own, then local attention and
/// SwiGLU. Trained, and never part of what is read.
class ScaleUp : public torch::nn::Module {
 public:
  ScaleUp(const ScaleOptions& options, uint64_t seed, const std::string& name);
  Tensor forward(Tensor x_BKD, const ScaleDown::Result& down) const;

 private:
  struct Level : torch::nn::Module {
    std::shared_ptr<Matrix> split, single;
    std::shared_ptr<MultiHeadAttention> attention;
    std::shared_ptr<FeedForward> feed_forward;
  };
  ScaleOptions options_;
  std::vector<std::shared_ptr<Level>> levels_;
  std::shared_ptr<Matrix> out_;
};

}  // namespace ctxc
