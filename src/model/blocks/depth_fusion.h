// Depth-wise transmission of ComprExIT (arXiv 2602.03784; comprexit.md section 2): every token weighs its own
// hidden states h_0..h_L. With p = softmax(query_fusion_weights):
//   q = Wq sum_l p_l h_l + bq;   s = softmax_l( q . (Wk h_l + bk + e_l) / (sqrt(Dg) tau) );   x = sum_l s_l
//   (Wv h_l + bv)
// computed in the equal form  q . k_l = (Wk^T q) . h_l + q . (bk + e_l),  x = Wv (sum_l s_l h_l) + bv,  which
// never forms [P, S, D] or [P, S, Dg]: the hidden states are read four times and nothing of their size is
// written but x.
#pragma once
#include <vector>

#include "model/blocks/affine.h"

namespace ctxc {

struct DepthParameters {
  Tensor query_fusion_weights;           ///< [S]
  Tensor layer_fusion_layer_embeddings;  ///< [S, Dg]
  std::shared_ptr<Affine> layer_fusion_q_prj, layer_fusion_k_prj, layer_fusion_v_prj;
};

struct DepthResult {
  Tensor fused_PD;    ///< float32 token anchors
  Tensor weights_PS;  ///< float32, rows sum to 1
};
DepthResult fuse_depth(const std::vector<Tensor>& hidden_PD, const DepthParameters& parameters,
                       double temperature);

/// sum_l w_pl h_l [P, D] in float32; w is [P, S] or, the same for every token, [1, S]. Differentiable in w,
/// and in the hidden states if one of them needs it.
Tensor weighted_states(const Tensor& weights_PS, const std::vector<Tensor>& hidden_PD);
/// g_p . h_pl [P, S] in float32. Differentiable likewise.
Tensor state_products(const Tensor& g_PD, const std::vector<Tensor>& hidden_PD);

}  // namespace ctxc
