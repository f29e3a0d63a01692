// Losses over rows of logits [C, V] that are in memory once, in place (model/loss.h goes over the chunks).
// With m the maximum of a row and z = sum_j exp(l_j - m):
//   ctxc::cross_entropy_rows_(logits, target, gradient) -> (loss [C], z [C])
//       loss = m + log z - l_target;  the logits become exp(l - m) - z [j == target] = z dloss/dl
//   ctxc::kl_rows_(student, teacher, gradient) -> loss [C]
//       loss = sum_j p_T (log p_T - log p_S);  the student's logits become p_S - p_T = dloss/dl
// Without `gradient` the logits hold nothing of use afterwards. Losses and z are float32 (double for double).
#pragma once
#include <tuple>

#include "model/shapes.h"

namespace ctxc {

std::tuple<Tensor, Tensor> cross_entropy_rows_(const Tensor& logits_CV, const Tensor& target_C,
                                               bool gradient);
Tensor kl_rows_(const Tensor& student_CV, const Tensor& teacher_CV, bool gradient);

}  // namespace ctxc
