#include "model/sampling.h"

#include <algorithm>

#include "core/error.h"

namespace ctxc {

int64_t sample_token(const Tensor& logits_V, double temperature, int64_t top_k, double top_p,
                     double uniform) {
  CTXC_CHECK(temperature > 0 && top_k >= 0 && top_p > 0 && top_p <= 1, ErrorKind::kUsage, "",
             "sampling: temperature {} (expected above 0), top_k {} (from 0), top_p {} (above 0, at most 1)",
             temperature, top_k, top_p);
  const int64_t kept = top_k > 0 ? std::min(top_k, logits_V.size(0)) : logits_V.size(0);
  auto [likeliest, ids] = logits_V.to(at::kCPU, at::kDouble).topk(kept, 0, /*largest=*/true, /*sorted=*/true);
  const Tensor probability = at::softmax(likeliest / temperature, 0);
  const double* p = probability.const_data_ptr<double>();
  int64_t nucleus = 0;
  double mass = 0;
  while (nucleus < kept && mass < top_p) mass += p[nucleus++];
  double left = uniform * mass;
  int64_t pick = 0;
  while (pick + 1 < nucleus && left >= p[pick]) left -= p[pick++];
  return ids.const_data_ptr<int64_t>()[pick];
}

}  // namespace ctxc
