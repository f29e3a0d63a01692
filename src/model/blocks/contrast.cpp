#include "model/blocks/contrast.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "model/blocks/full_precision.h"

namespace ctxc {
namespace {

/// -log softmax of the own pair in each row, over the allowed columns and the queue.
Tensor one_way(const Tensor& from_NE, const Tensor& to_NE, const Tensor& queue_QE, const Tensor& scale,
               const Tensor& allowed_NN) {
  const Tensor logits = (at::matmul(from_NE, to_NE.t()) * scale)
                            .masked_fill(allowed_NN.logical_not(), -std::numeric_limits<float>::infinity());
  const Tensor all = at::cat({logits, at::matmul(from_NE, queue_QE.t()) * scale}, 1);
  return at::logsumexp(all, 1) - logits.diagonal();
}

}  // namespace

ContrastResult info_nce(const ContrastPairs& pairs, const Tensor& scale, double near) {
  const FullPrecision full;
  const Tensor other_NN = pairs.sample_N.unsqueeze(1).ne(pairs.sample_N.unsqueeze(0));
  const Tensor far_NN = (pairs.position_N.unsqueeze(1) - pairs.position_N.unsqueeze(0)).abs().gt(near);
  const Tensor negative_NN = other_NN.logical_or(far_NN);
  const int64_t queued = pairs.queue_a_QE.size(0);
  const Tensor count_N = negative_NN.sum(1) + queued;
  const Tensor anchors_N = count_N.ge(kFewestNegatives);
  ContrastResult result;
  result.negatives = count_N.numel() ? count_N.to(at::kFloat).mean().item<double>() : 0;
  if (!anchors_N.any().item<bool>()) return result;
  const Tensor own = at::eye(negative_NN.size(0), negative_NN.options());
  const Tensor allowed_NN = negative_NN.logical_or(own);
  const Tensor loss_N = (one_way(pairs.a_NE, pairs.b_NE, pairs.queue_b_QE, scale, allowed_NN) +
                         one_way(pairs.b_NE, pairs.a_NE, pairs.queue_a_QE, scale, allowed_NN)) /
                        2;
  const Tensor weight_N = anchors_N.to(loss_N.scalar_type());
  result.loss = (loss_N * weight_N).sum() / weight_N.sum();
  return result;
}

ContrastQueue::ContrastQueue(int64_t size, int64_t width) {
  a_QE_ = register_buffer("a", at::zeros({size, width}, at::kFloat));
  b_QE_ = register_buffer("b", at::zeros({size, width}, at::kFloat));
  count_ = register_buffer("count", at::zeros({}, at::kLong));
}

Tensor ContrastQueue::filled(const Tensor& rows) const {
  // A copy: the buffer moves on before the backward pass reads what it held.
  return rows.slice(0, rows.size(0) - count_.item<int64_t>()).clone();
}

void ContrastQueue::push(const Tensor& a_NE, const Tensor& b_NE) {
  const at::NoGradGuard no_grad;
  const int64_t size = a_QE_.size(0);
  const auto shift = [&](Tensor& queue, const Tensor& rows) {
    const Tensor all = at::cat({queue, rows.detach().to(queue)});
    queue.copy_(all.slice(0, all.size(0) - size));
  };
  shift(a_QE_, a_NE);
  shift(b_QE_, b_NE);
  count_.fill_(std::min(size, count_.item<int64_t>() + a_NE.size(0)));
}

Projector::Projector(int64_t in, int64_t hidden, int64_t out, uint64_t seed, const std::string& name) {
  first_ = register_module("first", make_linear(in, hidden, seed, name + ".first"));
  second_ = register_module("second", make_linear(hidden, out, seed, name + ".second"));
}

Tensor Projector::forward(const Tensor& x) const {
  const Tensor y = linear(at::silu(linear(unit_rms(x), *first_)), *second_);
  return unit_rms(y) / std::sqrt(static_cast<double>(y.size(-1)));
}

}  // namespace ctxc
