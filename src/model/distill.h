// Distillation on chosen positions from stored hidden states (lcc.md section 4): the teacher's logits are
// recomputed from its final normalised hidden state, so the divergence is over the full vocabulary and no
// logits are ever stored. With s = z_S / tau, t = z_T / tau, p = softmax(t), q = softmax(s), row by row:
//   forward KL   tau^2 sum p (log p - log q)        d/dz_S = tau (q - p)
//   reverse KL   tau^2 sum q (log q - log p)        d/dz_S = tau q ((log q - log p) - KL)
//   logit MSE    mean (z_S - z_T)^2                 d/dz_S = 2 (z_S - z_T) / V
//   cross-entropy of a target   -log softmax(z_S)[target]
// A teacher kept as its k likeliest tokens R (Cartridges keeps 20 and leaves the rest out of its
// cross-entropy; here the rest is one more class) gives the forward KL over k + 1 classes, with P and Q the
// mass of the rest:
//   tau^2 ( sum_R p (log p - log q) + P (log P - log Q) )
//   d/dz_S = tau (q - p) in R, tau q (1 - P / Q) outside
// Merging classes can only lower a KL: it is a lower bound, exact for k = V - 1.
// Chunks of rows: the gradient with respect to the student's hidden states is formed while a chunk's logits
// exist.
#pragma once
#include "model/shapes.h"

namespace ctxc {

enum class Divergence { kForwardKl, kReverseKl, kLogitMse };

struct DistillRows {
  Tensor student_MD;  ///< hidden states L of the reader, with gradients
  Tensor teacher_MD;  ///< of the teacher; rows without a weight are not looked at
  Tensor target_M;    ///< int64
  Tensor align_M;     ///< float32 weights of the divergence
  Tensor ce_M;        ///< float32 weights of the cross-entropy
  /// In place of teacher_MD, for the forward KL; see top_rows(). Undefined = hidden states.
  Tensor top_id_MR = {}, top_log_MS = {};
};

/// The `count` likeliest tokens (at most V - 1) of rows of final hidden states, int64 [M, R], and the log
/// probabilities of these and of all others together, float32 [M, R + 1], at temperature `tau`.
struct TopRows {
  Tensor id_MR = {}, log_MS = {};
};
TopRows top_rows(const Tensor& hidden_MD, const Tensor& weight_VD, double tau, int64_t count,
                 int64_t chunk = 256);

struct DistillLoss {
  Tensor loss;  ///< sum over rows of align * divergence + ce * cross-entropy; float32 scalar
  Tensor align_M,
      nll_M;  ///< unweighted values of every row, float32, without gradients; align 0 without weight
};

DistillLoss distill_loss(const DistillRows& rows, const Tensor& weight_VD, Divergence divergence, double tau,
                         int64_t chunk = 256);

}  // namespace ctxc
