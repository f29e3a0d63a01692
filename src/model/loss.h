// Losses over the vocabulary in chunks of rows: the full logits never exist.
#pragma once
#include "model/shapes.h"

namespace ctxc {

/// Mean over M of -log softmax(h W^T)[target]. Backward recomputes nothing: the chunk's gradient with respect
/// to the hidden states (and W if it trains) is formed in the forward pass while its logits exist. hidden_MD
/// float, weight_VD, target_M int64; `chunk` rows at a time. The two products are in the weight's type, what
/// lies between them (log-sum-exp, probabilities) in float32. Returns a scalar, float32.
Tensor chunked_cross_entropy(const Tensor& hidden_MD, const Tensor& weight_VD, const Tensor& target_M,
                             int64_t chunk = 256);

/// Mean over M of KL(softmax(t W_T^T) || softmax(h W^T)), the teacher's t [M, D'] and W_T [V, D'] constant.
/// Likewise.
Tensor chunked_kl_divergence(const Tensor& hidden_MD, const Tensor& weight_VD, const Tensor& teacher_MD,
                             const Tensor& teacher_weight_VD, int64_t chunk = 256);

/// -log softmax(h W^T)[target] of every row, float32 [M], without gradients. Likewise.
Tensor token_nll(const Tensor& hidden_MD, const Tensor& weight_VD, const Tensor& target_M,
                 int64_t chunk = 256);

}  // namespace ctxc
