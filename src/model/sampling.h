// One draw from a distribution of next tokens.
#pragma once
#include "model/shapes.h"

namespace ctxc {

/// Token of the distribution softmax(logits / temperature), cut to the `top_k` likeliest (0 = all) and then
/// to the fewest whose probabilities reach `top_p`. `uniform` in [0, 1) is the draw; equal inputs give equal
/// tokens.
int64_t sample_token(const Tensor& logits_V, double temperature, int64_t top_k, double top_p, double uniform);

}  // namespace ctxc
