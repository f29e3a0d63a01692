// InfoNCE between what a latent says and what its text was (van den Oord et al., arXiv 1807.03748;
// progressive.md section 4): a_k = P(latent k), b_k = P'(mean of the frozen states of its tokens), both on
// the unit sphere,
//   L = 1/2 mean_k [ -log softmax_j(s a_k . b_j)_k  -log softmax_j(s b_k . a_j)_k ],  s = 1 / temperature
// over j = k and the negatives: the latents of other samples, those of the same sample further away than
// `near` tokens (nearer ones are likely positives, and take no part), and a queue of earlier steps' pairs
// (MoCo, He et al., 2020), detached. An anchor with fewer than kFewestNegatives is left out.
#pragma once
#include "model/blocks/affine.h"

namespace ctxc {

constexpr int64_t kFewestNegatives = 16;

struct ContrastPairs {
  Tensor a_NE, b_NE;  ///< l2 norm 1
  Tensor sample_N;    ///< int64
  Tensor position_N;  ///< float, source tokens
  Tensor queue_a_QE, queue_b_QE;
};
struct ContrastResult {
  Tensor loss;           ///< undefined where no anchor has enough negatives
  double negatives = 0;  ///< mean number of an anchor's
};
ContrastResult info_nce(const ContrastPairs& pairs, const Tensor& scale, double near);

/// The queue: the last `size` pairs, oldest first. Its buffers are part of the training state.
class ContrastQueue : public torch::nn::Module {
 public:
  ContrastQueue(int64_t size, int64_t width);
  Tensor a() const { return filled(a_QE_); }
  Tensor b() const { return filled(b_QE_); }
  void push(const Tensor& a_NE, const Tensor& b_NE);

 private:
  Tensor filled(const Tensor& rows) const;
  Tensor a_QE_, b_QE_, count_;
};

/// Two linear maps with a SiLU between, onto the unit sphere: [N, in] to float32 [N, out].
class Projector : public torch::nn::Module {
 public:
  Projector(int64_t in, int64_t hidden, int64_t out, uint64_t seed, const std::string& name);
  Tensor forward(const Tensor& x) const;

 private:
  std::shared_ptr<Affine> first_, second_;
};

}  // namespace ctxc
