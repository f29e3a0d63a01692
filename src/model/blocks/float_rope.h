// Rotary position code (Su et al., 2021) at positions that need not be integers, optionally averaged over
// their uncertainty (integrated positional encoding of mip-NeRF, Barron et al., arXiv 2103.13415). Plane m of
// a head of width E turns by position * theta_m, theta_m = 10000^(-2m/E); a Gaussian uncertainty of variance
// sigma^2 multiplies it by exp(-theta_m^2 sigma^2 / 2), which is the mean of the turned plane.
#pragma once
#include "model/shapes.h"

namespace ctxc {

/// x [B, N, H, E] with E even, position [B, N] float; variance [B, N] or undefined (none).
Tensor float_rope(const Tensor& x_BNHE, const Tensor& position_BN, const Tensor& variance_BN = {});

}  // namespace ctxc
