#include "model/blocks/local_attention.h"

#include <cmath>
#include <limits>

#include "core/error.h"
#include "model/blocks/float_rope.h"

namespace ctxc {
namespace {

/// One side of the attention: projected rows [B, N, H, E] and where they stand.
struct Side {
  Tensor position, mask, size;
};

/// [B, H, N, M] float logits to add: 0 where allowed, -inf elsewhere. `reached` [B, N]: queries that have a
/// key.
Tensor bias_of(const Side& queries, const Side& keys, const AttentionRule& rule, int64_t heads,
               Tensor& reached) {
  const Tensor distance = (queries.position.unsqueeze(2) - keys.position.unsqueeze(1)).abs();
  Tensor allowed = keys.mask.unsqueeze(1).expand_as(distance);
  if (rule.window > 0) allowed = allowed.logical_and(distance.le(rule.window));
  const Tensor any = allowed.any(2, /*keepdim=*/true);
  reached = any.squeeze(2).logical_and(queries.mask);
  // A softmax over nothing is NaN: such a query reads everything, and its result is cleared.
  allowed = allowed.logical_or(any.logical_not());
  Tensor bias = at::zeros(distance.sizes(), distance.options());
  if (rule.proportional && keys.size.defined()) bias = bias + keys.size.clamp_min(1e-6).log().unsqueeze(1);
  bias = bias.masked_fill(allowed.logical_not(), -std::numeric_limits<double>::infinity()).unsqueeze(1);
  if (rule.code != PositionCode::kAlibi) return bias.expand({-1, heads, -1, -1});
  const Tensor slope =
      ((at::arange(1, heads + 1, distance.options()) * (-8 * std::log(2.0) / static_cast<double>(heads)))
           .exp())
          .view({1, heads, 1, 1});
  return bias - slope * distance.unsqueeze(1);
}

Tensor attend(const Tensor& q_BNHE, const Tensor& k_BMHE, const Tensor& v_BMHE, const Side& queries,
              const Side& keys, const AttentionRule& rule) {
  Tensor reached;
  const Tensor bias = bias_of(queries, keys, rule, q_BNHE.size(2), reached).to(q_BNHE.scalar_type());
  const Tensor out = at::scaled_dot_product_attention(q_BNHE.transpose(1, 2), k_BMHE.transpose(1, 2),
                                                      v_BMHE.transpose(1, 2), bias);
  return out.transpose(1, 2) * reached.to(out.scalar_type()).unsqueeze(2).unsqueeze(3);
}

/// [B, n * block, ...] to [B * n, block, ...].
Tensor by_block(const Tensor& rows, int64_t block) {
  auto shape = rows.sizes().vec();
  shape[0] = rows.size(0) * rows.size(1) / block;
  shape[1] = block;
  return rows.reshape(shape);
}

/// The same with both neighbouring blocks around each: [B * n, 3 * block, ...]; zeros beyond the ends.
Tensor with_neighbours(const Tensor& rows, int64_t block) {
  auto shape = rows.sizes().vec();
  const int64_t batch = shape[0], length = shape[1];
  shape[1] = block;
  const Tensor edge = at::zeros(shape, rows.options());
  const Tensor wide = at::cat({edge, rows, edge}, 1);
  shape[1] = length / block;
  shape.insert(shape.begin() + 2, block);
  std::vector<Tensor> shifted;
  for (int64_t shift = 0; shift < 3; ++shift)
    shifted.push_back(wide.slice(1, shift * block, shift * block + length).reshape(shape));
  const Tensor joined = at::cat(shifted, 2);
  auto result = rows.sizes().vec();
  result[0] = batch * (length / block);
  result[1] = 3 * block;
  return joined.reshape(result);
}

Tensor pad_rows(const Tensor& rows, int64_t extra) {
  if (extra == 0 || !rows.defined()) return rows;
  auto shape = rows.sizes().vec();
  shape[1] = extra;
  return at::cat({rows, at::zeros(shape, rows.options())}, 1);
}

Tensor attend_in_blocks(const Tensor& q_BNHE, const Tensor& k_BNHE, const Tensor& v_BNHE, const Side& side,
                        const AttentionRule& rule) {
  const int64_t batch = q_BNHE.size(0), length = q_BNHE.size(1), block = rule.block;
  const int64_t extra = (block - length % block) % block;
  const Side padded{pad_rows(side.position, extra), pad_rows(side.mask, extra), pad_rows(side.size, extra)};
  const Side queries{by_block(padded.position, block), by_block(padded.mask, block), {}};
  const Side keys{with_neighbours(padded.position, block), with_neighbours(padded.mask, block),
                  padded.size.defined() ? with_neighbours(padded.size, block) : Tensor()};
  const Tensor out =
      attend(by_block(pad_rows(q_BNHE, extra), block), with_neighbours(pad_rows(k_BNHE, extra), block),
             with_neighbours(pad_rows(v_BNHE, extra), block), queries, keys, rule);
  return out.reshape({batch, length + extra, out.size(2), out.size(3)}).slice(1, 0, length);
}

}  // namespace

PositionCode position_code_named(const std::string& name) {
  if (name == "alibi") return PositionCode::kAlibi;
  return name == "rope" ? PositionCode::kRope : PositionCode::kNone;
}

Places Places::slice(int64_t first, int64_t last) const {
  const auto cut = [&](const Tensor& rows) { return rows.defined() ? rows.slice(1, first, last) : rows; };
  return {cut(position), cut(mask), cut(size), cut(variance)};
}

MultiHeadAttention::MultiHeadAttention(int64_t width, int64_t heads, uint64_t seed, const std::string& name,
                                       bool quiet)
    : heads_(heads) {
  CTXC_CHECK(width % heads == 0 && width / heads % 2 == 0, ErrorKind::kUsage,
             "width must be heads times an even head width",
             "attention: the width cannot be shared by the heads (found width {}, {} heads)", width, heads);
  query_ = register_module("query", make_matrix(width, width, seed, name + ".query"));
  key_ = register_module("key", make_matrix(width, width, seed, name + ".key"));
  value_ = register_module("value", make_matrix(width, width, seed, name + ".value"));
  output_ = register_module("output", make_matrix(width, width, seed, name + ".output", quiet ? 0 : 1));
}

Tensor MultiHeadAttention::mean_key(const Tensor& x_BND) const {
  // The mean of linear maps is one linear map.
  const int64_t width = key_->weight.size(1);
  return at::linear(x_BND, key_->weight.view({heads_, width / heads_, width}).mean(0));
}

Tensor MultiHeadAttention::forward(const Tensor& query_BND, const Places& queries, const Tensor& key_BMD,
                                   const Places& keys, const AttentionRule& rule) const {
  const int64_t width = query_BND.size(2), head = width / heads_;
  const auto heads = [&](const Tensor& x) { return x.reshape({x.size(0), x.size(1), heads_, head}); };
  Tensor q = heads(linear(query_BND, *query_)), k = heads(linear(key_BMD, *key_));
  const Tensor v = heads(linear(key_BMD, *value_));
  if (rule.code == PositionCode::kRope) {
    q = float_rope(q, queries.position, queries.variance);
    k = float_rope(k, keys.position, keys.variance);
  }
  const Side own{queries.position, queries.mask, queries.size}, other{keys.position, keys.mask, keys.size};
  const bool blocks = rule.block > 0 && query_BND.is_same(key_BMD) && query_BND.size(1) > 2 * rule.block;
  const Tensor out = blocks ? attend_in_blocks(q, k, v, own, rule) : attend(q, k, v, own, other, rule);
  return linear(out.reshape({out.size(0), out.size(1), width}), *output_);
}

}  // namespace ctxc
