#include "model/blocks/ordered_merge.h"

#include <cmath>
#include <limits>

#include "model/blocks/float_rope.h"

namespace ctxc {
namespace {

std::shared_ptr<Matrix> near_share(double share, int64_t width, uint64_t seed, const std::string& name) {
  return std::make_shared<Matrix>(at::eye(width, at::kFloat) * share +
                                  draw({width, width}, {Draw::Kind::kNormal, 0.02}, seed, name + ".weight"));
}

/// [B, K, 2, 1]: 1 for real members.
Tensor members(const Places& places, const Tensor& like) {
  return in_pairs(places.mask).to(like.scalar_type()).unsqueeze(-1);
}

Tensor masked_mean(const Tensor& x_BK2D, const Tensor& real_BK21) {
  return (x_BK2D * real_BK21).sum(2) / real_BK21.sum(2).clamp_min(1);
}

}  // namespace

PathStart path_start_named(const std::string& init) {
  if (init == "pca") return PathStart::kMean;
  return init == "pca_first" ? PathStart::kFirst : PathStart::kRandom;
}

PathStart slot_merge_start_named(const std::string& init) {
  return init == "residual" ? PathStart::kFirst : path_start_named(init);
}

Pool pool_named(const std::string& name) {
  if (name == "concat") return Pool::kConcat;
  if (name == "mean") return Pool::kMean;
  if (name == "mean_linear") return Pool::kMeanLinear;
  return name == "attn" ? Pool::kAttention : Pool::kRotatedAttention;
}

Tensor in_pairs(const Tensor& rows) {
  auto shape = rows.sizes().vec();
  Tensor even = rows;
  if (shape[1] % 2 == 1) {
    shape[1] = 1;
    even = at::cat({rows, at::zeros(shape, rows.options())}, 1);
  }
  shape[1] = even.size(1) / 2;
  shape.insert(shape.begin() + 2, 2);
  return even.reshape(shape);
}

Places merged_places(const Places& places) {
  const Tensor size_BK2 = in_pairs(places.size * places.mask.to(places.size.scalar_type()));
  const Tensor size = size_BK2.sum(2);
  return {(in_pairs(places.position) * size_BK2).sum(2) / size.clamp_min(1e-6), in_pairs(places.mask).any(2),
          size};
}

Tensor weighted_pair_mean(const Tensor& rows, const Tensor& size_BN) {
  Tensor size_BK2 = in_pairs(size_BN);
  if (rows.dim() > size_BN.dim()) size_BK2 = size_BK2.unsqueeze(-1);
  return (in_pairs(rows) * size_BK2).sum(2) / size_BK2.sum(2).clamp_min(1e-6);
}

PairPool::PairPool(int64_t width, int64_t heads, Pool kind, uint64_t seed, const std::string& name,
                   PathStart start)
    : kind_(kind), heads_(heads) {
  // Two members of rms 1 are to give a vector of rms 1.
  const double gain = kind == Pool::kConcat ? std::sqrt(0.5) : 1;
  const auto matrix = [&](const std::string& part, double first_share) {
    const std::string full = name + "." + part;
    if (start == PathStart::kRandom || kind != Pool::kConcat)
      return make_matrix(width, width, seed, full, gain);
    return near_share(start == PathStart::kMean ? 0.5 : first_share, width, seed, full);
  };
  if (kind == Pool::kConcat || kind == Pool::kMeanLinear) {
    left_ = register_module("left", matrix("left", 1));
    right_ = register_module("right", matrix("right", 0));
  }
  if (kind == Pool::kAttention || kind == Pool::kRotatedAttention) {
    score_ = register_module("score", make_matrix(width, heads, seed, name + ".score"));
    value_ = register_module("value", make_matrix(width, width, seed, name + ".value"));
  }
}

Tensor PairPool::attention_pool(const Tensor& x_BK2D, const Places& places) const {
  const Tensor mask_BK21 = in_pairs(places.mask).unsqueeze(-1), real = mask_BK21.to(x_BK2D.scalar_type());
  const int64_t batch = x_BK2D.size(0), pairs = x_BK2D.size(1), head = x_BK2D.size(3) / heads_;
  const Tensor normed = unit_rms(x_BK2D);
  // A large finite number, so that a window without members stays free of NaN.
  const Tensor weight_BK2H =
      linear(normed, *score_).masked_fill(mask_BK21.logical_not(), -1e9).softmax(2) * real;
  Tensor value = linear(normed, *value_).reshape({batch, 2 * pairs, heads_, head});
  if (kind_ == Pool::kRotatedAttention) {
    const Places merged = merged_places(places);
    const Tensor offset =
        (in_pairs(places.position) - merged.position.unsqueeze(2)).reshape({batch, 2 * pairs});
    value = float_rope(value, offset);
  }
  const Tensor pooled = (value.view({batch, pairs, 2, heads_, head}) * weight_BK2H.unsqueeze(-1))
                            .sum(2)
                            .reshape({batch, pairs, -1});
  return pooled + masked_mean(x_BK2D, real);
}

Tensor PairPool::forward(const Tensor& x_BND, const Places& places) const {
  const Tensor x_BK2D = in_pairs(x_BND), real = members(places, x_BND);
  if (kind_ == Pool::kAttention || kind_ == Pool::kRotatedAttention) return attention_pool(x_BK2D, places);
  if (kind_ == Pool::kMean) return masked_mean(x_BK2D, real);
  if (kind_ == Pool::kMeanLinear) return linear(linear(masked_mean(unit_rms(x_BK2D), real), *left_), *right_);
  const Tensor normed = unit_rms(x_BK2D) * real;
  return linear(normed.select(2, 0), *left_) + linear(normed.select(2, 1), *right_);
}

}  // namespace ctxc
