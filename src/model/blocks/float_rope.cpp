#include "model/blocks/float_rope.h"

#include <cmath>

namespace ctxc {

Tensor float_rope(const Tensor& x_BNHE, const Tensor& position_BN, const Tensor& variance_BN) {
  const int64_t width = x_BNHE.size(3);
  const Tensor theta_E =
      (at::arange(width / 2, position_BN.options()) * (-2 * std::log(10000.0) / static_cast<double>(width)))
          .exp();
  const Tensor angle = position_BN.unsqueeze(-1) * theta_E;
  Tensor cos = angle.cos(), sin = angle.sin();
  if (variance_BN.defined()) {
    const Tensor kept = (variance_BN.unsqueeze(-1) * theta_E.square() * -0.5).exp();
    cos = cos * kept;
    sin = sin * kept;
  }
  cos = cos.unsqueeze(2).to(x_BNHE.scalar_type());
  sin = sin.unsqueeze(2).to(x_BNHE.scalar_type());
  const auto halves = x_BNHE.chunk(2, -1);
  return at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1);
}

}  // namespace ctxc
