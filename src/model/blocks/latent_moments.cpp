#include "model/blocks/latent_moments.h"

#include <algorithm>

#include "model/blocks/full_precision.h"

namespace ctxc {

Tensor log_determinant(const Tensor& matrix_ZZ) {
  const FullPrecision full;
  return at::linalg_cholesky(matrix_ZZ).diagonal().log().sum() * 2;
}

Tensor rate_tight(const Tensor& mean_rate, const Tensor& covariance_ZZ) {
  return mean_rate + log_determinant(covariance_ZZ) / 2;
}

Tensor aggregate_loss(const Tensor& covariance_ZZ) {
  return log_determinant(covariance_ZZ) / -static_cast<double>(covariance_ZZ.size(0));
}

LatentMoments::LatentMoments(int64_t latent_width, int64_t window) : window_(window) {
  count_ = register_buffer("count", at::zeros({}, at::kFloat));
  mean_Z_ = register_buffer("mean", at::zeros({latent_width}, at::kFloat));
  second_ZZ_ = register_buffer("second", at::zeros({latent_width, latent_width}, at::kFloat));
  noise_Z_ = register_buffer("noise", at::zeros({latent_width}, at::kFloat));
  rate_ = register_buffer("rate", at::zeros({}, at::kFloat));
}

LatentMoments::Result LatentMoments::include(const Tensor& signal_NZ, const Tensor& noise_NZ,
                                             const Tensor& rate_N, bool keep) {
  const FullPrecision full;
  const double fresh = static_cast<double>(signal_NZ.size(0)), seen = count_.item<double>();
  const double room = std::max(static_cast<double>(window_) - fresh, 0.0), old = std::min(seen, room);
  const double total = std::max(old + fresh, 1.0);
  const auto blend = [&](const Tensor& before, const Tensor& sum) { return (before * old + sum) / total; };
  const Tensor mean_Z = blend(mean_Z_, signal_NZ.sum(0));
  const Tensor second_ZZ = blend(second_ZZ_, at::matmul(signal_NZ.t(), signal_NZ));
  const Tensor noise_Z = blend(noise_Z_, noise_NZ.sum(0)), rate = blend(rate_, rate_N.sum());
  if (keep) {
    const at::NoGradGuard no_grad;
    count_.fill_(std::min(seen + fresh, static_cast<double>(window_)));
    mean_Z_.copy_(mean_Z);
    second_ZZ_.copy_(second_ZZ);
    noise_Z_.copy_(noise_Z);
    rate_.copy_(rate);
  }
  if (seen + fresh < static_cast<double>(window_)) return {};
  return {second_ZZ - at::outer(mean_Z, mean_Z) + at::diag(noise_Z), rate};
}

}  // namespace ctxc
