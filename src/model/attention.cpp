#include "model/attention.h"

#include <limits>

#include "core/error.h"

namespace ctxc {
namespace {

/// 0 where `allowed`, -inf elsewhere.
Tensor additive(const Tensor& allowed, at::ScalarType dtype) {
  return at::zeros(allowed.sizes(), allowed.options().dtype(dtype))
      .masked_fill_(allowed.logical_not(), -std::numeric_limits<double>::infinity());
}

/// bool [rows, past + rows]: everything past, and oneself and what came before.
Tensor causal_mask(int64_t rows, int64_t past, const at::Device& device) {
  return at::ones({rows, past + rows}, at::TensorOptions().dtype(at::kBool).device(device)).tril_(past);
}

/// `bias` may be undefined.
Tensor attend(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& bias, bool causal) {
  const std::optional<Tensor> mask = bias.defined() ? std::optional<Tensor>(bias) : std::nullopt;
  return at::scaled_dot_product_attention(query, key, value, mask, /*dropout_p=*/0.0, causal);
}

}  // namespace

PackedAttention::PackedAttention(const LlamaConfig& config, const PackedRows& rows, at::ScalarType dtype)
    : config_(config), dtype_(dtype), prefix_(rows.prefix) {
  const at::Device device = rows.embeds_PD.device();
  CTXC_CHECK(prefix_.empty() || static_cast<int64_t>(prefix_.size()) == config.num_layers,
             ErrorKind::kInternal, "",
             "attention: a prefix needs keys of every layer (found {}, expected {})", prefix_.size(),
             config.num_layers);
  const int64_t prefix_columns = prefix_.empty() ? 0 : prefix_[0].key_BGKE.size(2);
  for (const Segment& segment : rows.segments) {
    const bool prefixed = segment.prefix_row >= 0 && prefix_columns > 0;
    const int64_t past = prefixed ? prefix_columns : 0;
    Part part{.bias_TS = {}, .prefix_row = prefixed ? segment.prefix_row : -1};
    Tensor allowed = segment.mask_TS;
    CTXC_CHECK(!allowed.defined() || (allowed.dim() == 2 && allowed.size(0) == segment.length &&
                                      allowed.size(1) == past + segment.length),
               ErrorKind::kInternal, "", "attention: the mask of a segment does not fit (expected [{}, {}])",
               segment.length, past + segment.length);
    if (prefixed && !allowed.defined()) allowed = causal_mask(segment.length, past, device);
    if (prefixed && rows.prefix_mask_BK.defined()) {
      const Tensor own = at::ones({segment.length}, at::TensorOptions().dtype(at::kBool).device(device));
      allowed = allowed.logical_and(at::cat({rows.prefix_mask_BK[segment.prefix_row].to(device), own}));
    }
    if (allowed.defined()) part.bias_TS = additive(allowed.to(device), dtype);
    lengths_.push_back(segment.length);
    parts_.push_back(std::move(part));
  }
}

Tensor PackedAttention::operator()(int64_t layer, const Tensor& query_PHE, const Tensor& key_PGE,
                                   const Tensor& value_PGE) {
  const int64_t groups = config_.num_kv_heads, shared = config_.num_heads / groups, width = config_.head_dim;
  // Splitting (whose backward is one concatenation) instead of slicing (whose backward fills a full tensor
  // each).
  const auto queries = query_PHE.to(dtype_).view({-1, groups, shared, width}).split_with_sizes(lengths_, 0);
  const auto keys = key_PGE.to(dtype_).split_with_sizes(lengths_, 0);
  const auto values = value_PGE.to(dtype_).split_with_sizes(lengths_, 0);
  std::vector<Tensor> outputs;
  outputs.reserve(parts_.size());
  for (size_t index = 0; index < parts_.size(); ++index) {
    if (lengths_[index] == 0) continue;
    const Part& part = parts_[index];
    Tensor key_GSE = keys[index].transpose(0, 1), value_GSE = values[index].transpose(0, 1);
    if (part.prefix_row >= 0) {
      const KvPair& prefix = prefix_[layer];
      key_GSE = at::cat({prefix.key_BGKE[part.prefix_row].to(key_GSE.options()), key_GSE}, 1);
      value_GSE = at::cat({prefix.value_BGKE[part.prefix_row].to(value_GSE.options()), value_GSE}, 1);
    }
    // The groups are SDPA's batch and the queries that share a key its heads: keys are shared by stride 0,
    // not copied.
    const std::vector<int64_t> shape = {groups, shared, key_GSE.size(1), width};
    const Tensor out_GRTE =
        attend(queries[index].permute({1, 2, 0, 3}), key_GSE.unsqueeze(1).expand(shape),
               value_GSE.unsqueeze(1).expand(shape), part.bias_TS, !part.bias_TS.defined());
    outputs.push_back(out_GRTE.permute({2, 0, 1, 3}).reshape({lengths_[index], -1}));
  }
  if (outputs.empty()) return query_PHE.reshape({0, groups * shared * width});
  return (outputs.size() == 1 ? outputs[0] : at::cat(outputs, 0)).to(query_PHE.scalar_type());
}

PaddedAttention::PaddedAttention(const LlamaConfig& config, int64_t batch, int64_t columns,
                                 const Tensor& mask_BS, KvCache* cache, at::ScalarType dtype,
                                 const at::Device& device)
    : config_(config), batch_(batch), columns_(columns), cache_(cache) {
  const int64_t past = cache ? cache->length() : 0;
  if (!mask_BS.defined()) {
    causal_ = past == 0;
    if (past > 0 && columns > 1) bias_B1TS_ = additive(causal_mask(columns, past, device), dtype);
    return;
  }
  CTXC_CHECK(mask_BS.dim() == 2 && mask_BS.size(0) == batch && mask_BS.size(1) == past + columns,
             ErrorKind::kInternal, "",
             "attention: the mask does not fit (found {} columns, expected [{}, {}])", mask_BS.size(-1),
             batch, past + columns);
  const Tensor own =
      at::cat({at::zeros({columns, past}, at::kBool), at::eye(columns, at::kBool)}, 1).to(device);
  const Tensor allowed =
      causal_mask(columns, past, device).logical_and(mask_BS.to(device).unsqueeze(1)).logical_or_(own);
  bias_B1TS_ = additive(allowed, dtype).unsqueeze(1);
}

Tensor PaddedAttention::operator()(int64_t layer, const Tensor& query_PHE, const Tensor& key_PGE,
                                   const Tensor& value_PGE) {
  const int64_t groups = config_.num_kv_heads, heads = config_.num_heads, width = config_.head_dim;
  KvPair kv{key_PGE.view({batch_, columns_, groups, width}).transpose(1, 2),
            value_PGE.view({batch_, columns_, groups, width}).transpose(1, 2)};
  if (cache_) kv = cache_->append(layer, kv.key_BGKE, kv.value_BGKE);
  if (columns_ == 1) {
    // One new token: the queries that share a key stand as rows of one head; nothing is repeated.
    const Tensor query_BGRE = query_PHE.view({batch_, groups, heads / groups, width});
    return attend(query_BGRE, kv.key_BGKE, kv.value_BGKE, bias_B1TS_, /*causal=*/false)
        .reshape({batch_, heads * width});
  }
  const Tensor query_BHTE = query_PHE.view({batch_, columns_, heads, width}).transpose(1, 2);
  const Tensor key_BHSE = kv.key_BGKE.repeat_interleave(heads / groups, 1);
  const Tensor value_BHSE = kv.value_BGKE.repeat_interleave(heads / groups, 1);
  return attend(query_BHTE, key_BHSE, value_BHSE, bias_B1TS_, causal_)
      .transpose(1, 2)
      .reshape({batch_ * columns_, heads * width});
}

}  // namespace ctxc
