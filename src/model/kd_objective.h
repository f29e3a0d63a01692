// The objective `kd`: distillation of what the base knows with the whole context before it (Hinton et al.,
// 2015; diffusion.md section 7, L_KD, temperature 1). Mean over the supervised tokens of
//   KL( p(. | full context, y_<i) || p(. | memory, y_<i) )
// The teacher is the frozen base itself, one more forward pass over context and queries without gradients;
// its head is the memory's. (The method's rate is called `kl`, never this.)
#pragma once
#include <memory>

#include "model/objective.h"

namespace ctxc {

/// Error kUsage from the objective if the base trains.
std::unique_ptr<Objective> make_distillation();

}  // namespace ctxc
