// Entropic optimal transport (Cuturi, "Sinkhorn distances", 2013) with gradients through every iteration, as
// the width-wise transmission of ComprExIT uses it (comprexit.md section 3, step 7). With K_ij = -C_ij /
// epsilon, u = v = 0:
//   repeat: u_i = log a_i - logsumexp_j(K_ij + v_j);  v_j = log b_j - logsumexp_i(K_ij + u_i)
//   P_ij = exp(K_ij + u_i + v_j)
// Rows with a_i = 0 and columns with b_j = 0 carry nothing (u, v = -1e9, P = 0), except that the first u
// still sees every column (v = 0). The last update is of v: columns of P sum to b up to rounding, rows sum to
// a only nearly.
#pragma once
#include "model/shapes.h"

namespace ctxc {

/// Transport plans [N, W, K] for costs [N, W, K] between masses a [N, W] and b [N, K] (both >= 0, constant
/// where a row or column is masked by 0). Differentiable in cost and a; b is a constant. Positive masses
/// count as at least 1e-20. One autograd node that keeps u and v of every iteration
/// (model/kernels/sinkhorn.h). The CPU's scaling form needs max|cost| / epsilon <= 300 (a larger quotient is
/// Error kUsage).
Tensor sinkhorn_plan(const Tensor& cost_NWK, const Tensor& a_NW, const Tensor& b_NK, int64_t iterations,
                     double epsilon);

/// The same straight from the equations, in the dtype of the cost: about 8 autograd nodes an iteration. The
/// oracle.
Tensor sinkhorn_plan_plain(const Tensor& cost_NWK, const Tensor& a_NW, const Tensor& b_NK, int64_t iterations,
                           double epsilon);

}  // namespace ctxc
