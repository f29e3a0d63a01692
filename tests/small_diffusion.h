// A small diffusion compressor on the tests' tiny Llama.
#pragma once
#include "small_method.h"

namespace ctxc::testing {

/// With keys of its own: ", key: value, …".
inline std::shared_ptr<Compressor> method(const std::string& more = "") {
  return small_method(
      "{name: diffusion, ratio: 4, chunk: 32, width: 32, heads: 2, latent_width: 16, window: 16, state: 4, "
      "rho: 0.5}",
      more);
}
inline Compressed compress(Compressor& compressor, const std::vector<Tokens>& contexts, bool training = false,
                           int64_t step = 0, int64_t padded = 0) {
  Context context(*small_backbone(), contexts, padded);
  return compressor.compress(context, {.seed = 1, .step = step, .micro = 0, .training = training});
}

}  // namespace ctxc::testing
