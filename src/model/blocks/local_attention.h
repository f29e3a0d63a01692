// Multi-head attention between rows that stand at float positions: local (a window in source tokens),
// bidirectional, with padding. Positions enter as RoPE (blocks/float_rope.h), as ALiBi (Press et al., 2022:
// -m_h |p_q - p_k| on the logits, m_h = 2^(-8 h / H), h = 1..H), or not at all; only differences matter in
// any case. Proportional attention (Bolya et al., ToMe, 2023) adds ln n_k to the logits of a key that stands
// for n_k tokens.
//   q = Wq x, k = Wk y, v = Wv y;  out = Wo softmax(q k^T / sqrt(E) + bias) v
// A query without any allowed key, and a padded query, give zeros.
#pragma once
#include "model/blocks/affine.h"

namespace ctxc {

enum class PositionCode { kRope, kAlibi, kNone };
/// rope | alibi; anything else is kNone.
PositionCode position_code_named(const std::string& name);

/// Where the rows of a side stand: [B, N] each.
struct Places {
  Tensor position;       ///< float
  Tensor mask;           ///< bool: real
  Tensor size = {};      ///< float: source tokens a row stands for; undefined = 1 each
  Tensor variance = {};  ///< float: of the position (integrated RoPE); undefined = exact
  Places slice(int64_t first, int64_t last) const;  ///< along N
};

struct AttentionRule {
  PositionCode code = PositionCode::kRope;
  double window = 0;  ///< largest |p_q - p_k| in source tokens; 0 = all
  int64_t block = 0;  ///< self-attention in blocks of so many rows with both neighbours; 0 = dense. Exact if
                      ///< rows further apart than a block are further apart than the window
  bool proportional = false;  ///< add ln size to the keys' logits
};

class MultiHeadAttention : public torch::nn::Module {
 public:
  /// `quiet`: the output projection starts at zero.
  MultiHeadAttention(int64_t width, int64_t heads, uint64_t seed, const std::string& name,
                     bool quiet = false);
  /// x [B, N, d] attends to y [B, M, d], both normalised by the caller.
  Tensor forward(const Tensor& query_BND, const Places& queries, const Tensor& key_BMD, const Places& keys,
                 const AttentionRule& rule) const;
  Tensor self(const Tensor& x_BND, const Places& places, const AttentionRule& rule) const {
    return forward(x_BND, places, x_BND, places, rule);
  }
  /// Mean over the heads of the keys of x before any rotation: [B, N, d / heads].
  Tensor mean_key(const Tensor& x_BND) const;

 private:
  int64_t heads_;
  std::shared_ptr<Matrix> query_, key_, value_, output_;
};

}  // namespace ctxc
