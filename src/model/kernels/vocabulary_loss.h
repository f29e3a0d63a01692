// Losses over rows of logits [C, V] that are in memory once, in place (model/loss.h goes over the chunks).
// With m the maximum of a row and z = sum_j exp(l_j - m):
//   ctxc::cross_entropy_rows_(logits, target, gradient) -> (loss [C], z [C])
//       loss = m + log z - l_target;  the logits become exp(l - m) - z [j == target] = z dloss/dl
//   ctxc::kl_rows_(student, teacher, tau, reverse, gradient) -> loss [C], with p of the logits over tau
//       loss = tau^2 sum_j p_T (log p_T - log p_S);  the student's logits become tau (p_S - p_T) = dloss/dl
//       reverse: tau^2 sum_j p_S (log p_S - log p_T) =: tau^2 k;  tau p_S (log p_S - log p_T - k)
// Without `gradient` the logits hold nothing of use afterwards. Losses and z are float32 (double for double).
#pragma once
#include <tuple>

#include "model/shapes.h"

namespace ctxc {

std::tuple<Tensor, Tensor> cross_entropy_rows_(const Tensor& logits_CV, const Tensor& target_C,
                                               bool gradient);
Tensor kl_rows_(const Tensor& student_CV, const Tensor& teacher_CV, double tau, bool reverse, bool gradient);

}  // namespace ctxc
