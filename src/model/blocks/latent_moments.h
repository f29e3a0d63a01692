// How much the latents of the channel can hold together (diffusion.md sections 4 and 7). With z = sqrt(abar)
// z0 + sqrt(1 - abar) eps, the expectation over eps taken in closed form (so the matrix is positive
// definite),
//   Cov(z) = Cov_k(sqrt(abar_k) z0_k) + mean_k(1 - abar_k) I
//   rate_tight = mean_k R_k + 1/2 ln det Cov(z)   nats a latent, a bound on I(z; source): 0 for a constant
//   z0, mean R
//                for Cov(z) = I
//   L_agg = -(1 / d_z) ln det Cov(z) = (2 / d_z) KL(N(mean z, Cov z) || N(0, I)) >= 0, since E||z||^2 = d_z
// The moments run over the last latents seen (a window that forgets evenly); those of the batch at hand carry
// the gradient, older ones are constants. They are buffers: part of the training state, not of the method's
// parameters.
#pragma once
#include <torch/nn/module.h>

#include "model/shapes.h"

namespace ctxc {

/// ln det of a symmetric positive definite matrix, by Cholesky in full precision.
Tensor log_determinant(const Tensor& matrix_ZZ);
Tensor rate_tight(const Tensor& mean_rate, const Tensor& covariance_ZZ);
/// L_agg.
Tensor aggregate_loss(const Tensor& covariance_ZZ);

class LatentMoments : public torch::nn::Module {
 public:
  /// The window holds `window` latents.
  LatentMoments(int64_t latent_width, int64_t window);
  struct Result {
    Tensor covariance_ZZ, rate;  ///< undefined until as many latents as the window holds were seen
  };
  /// Moments with these latents included: signal = sqrt(abar) z0 [N, Z], noise = 1 - abar [N, Z], rate [N]
  /// nats. `keep`: they join the window.
  Result include(const Tensor& signal_NZ, const Tensor& noise_NZ, const Tensor& rate_N, bool keep);

 private:
  int64_t window_;
  Tensor count_, mean_Z_, second_ZZ_, noise_Z_, rate_;
};

}  // namespace ctxc
