#include "model/blocks/eviction.h"

#include <cmath>
#include <limits>

#include "core/error.h"
#include "model/layers.h"

namespace ctxc {
namespace {

constexpr int64_t kWindow = 32, kPool = 5;

int64_t window_of(int64_t count) {
  return std::max<int64_t>(1, std::min(kWindow, count / 2));
}

/// Queries after RoPE of the last `window` tokens in every layer, [W, H, E].
std::vector<Tensor> window_queries(const Backbone& backbone, const Document& document, int64_t window) {
  const LlamaConfig& llama = backbone.config();
  const int64_t past = document.prefix + document.length() - window;
  const std::vector<int64_t> ids(document.context.end() - window, document.context.end());
  PackedRows rows;
  rows.embeds_PD = backbone.embed(at::tensor(ids, at::kLong));
  rows.positions_P = at::arange(past, past + window, at::kLong).to(backbone.device());
  rows.segments = {{.length = window, .mask_TS = {}, .prefix_row = 0}};
  rows.prefix = document.first_rows(past);
  ForwardOptions options;
  for (int64_t layer = 0; layer < llama.num_layers; ++layer) options.collect.push_back(layer);
  const std::vector<Tensor> inputs = backbone.forward(rows, options).hidden;
  const RopeTable table =
      rope_table(backbone.inverse_frequencies(), rows.positions_P, backbone.compute_dtype());
  std::vector<Tensor> queries;
  for (int64_t layer = 0; layer < llama.num_layers; ++layer) {
    const auto weight = [&](const char* name) {
      return backbone.weights().at(fmt::format("model.layers.{}.{}.weight", layer, name));
    };
    const Tensor read = rms_norm(inputs[layer], weight("input_layernorm"), llama.rms_norm_eps);
    queries.push_back(apply_rope(
        adapted_linear(read, weight("self_attn.q_proj")).view({window, llama.num_heads, -1}), table));
  }
  return queries;
}

}  // namespace

std::vector<KvPair> truncated_rows(const Document& document, int64_t count) {
  std::vector<KvPair> kept;
  for (const KvPair& pair : document.frozen)
    kept.push_back(
        {pair.key_BGKE.narrow(2, document.prefix, count), pair.value_BGKE.narrow(2, document.prefix, count)});
  return kept;
}

Tensor snapkv_columns(const Tensor& query_WHE, const Tensor& key_GSE, int64_t prefix, int64_t count) {
  const int64_t window = query_WHE.size(0), groups = key_GSE.size(0), columns = key_GSE.size(1),
                width = key_GSE.size(2), first = columns - window;
  CTXC_CHECK(window <= count && count <= columns - prefix, ErrorKind::kInternal, "",
             "snapkv: {} of {} columns with a window of {}", count, columns - prefix, window);
  const Tensor query_GHWE = query_WHE.to(at::kFloat).view({window, groups, -1, width}).permute({1, 2, 0, 3});
  const Tensor hidden_WS = at::ones({window, columns}, key_GSE.options().dtype(at::kBool)).triu_(first + 1);
  const Tensor attention_GHWS = (at::matmul(query_GHWE, key_GSE.to(at::kFloat).transpose(1, 2).unsqueeze(1)) /
                                 std::sqrt(static_cast<double>(width)))
                                    .masked_fill(hidden_WS, -std::numeric_limits<double>::infinity())
                                    .softmax(-1);
  const Tensor vote_GC = attention_GHWS.sum(at::IntArrayRef({1, 2})).slice(1, prefix, first);
  const Tensor last_GW =
      at::arange(first, columns, at::TensorOptions().dtype(at::kLong).device(key_GSE.device()))
          .expand({groups, window});
  if (count == window) return last_GW;
  const Tensor pooled_GC =
      at::avg_pool1d(vote_GC.unsqueeze(0), {kPool}, {1}, {kPool / 2}, false, /*count_include_pad=*/false)
          .squeeze(0);
  const Tensor voted_GK = std::get<1>(pooled_GC.topk(count - window, 1)) + prefix;
  return at::cat({std::get<0>(voted_GK.sort(1)), last_GW}, 1);
}

std::vector<KvPair> snapkv_rows(const Backbone& backbone, const Document& document, int64_t count) {
  const at::NoGradGuard no_grad;
  const int64_t prefix = document.prefix, window = window_of(count);
  const std::vector<Tensor> queries = window_queries(backbone, document, window);
  std::vector<KvPair> kept;
  for (size_t layer = 0; layer < queries.size(); ++layer) {
    const Tensor key_GSE = document.frozen[layer].key_BGKE[0],
                 value_GSE = document.frozen[layer].value_BGKE[0];
    const Tensor columns_GK = snapkv_columns(queries[layer], key_GSE, prefix, count);
    const Tensor place_K = at::arange(prefix, prefix + count, columns_GK.options());
    std::vector<Tensor> keys, values;
    for (int64_t group = 0; group < key_GSE.size(0); ++group) {
      const Tensor column_K = columns_GK[group];
      keys.push_back(shift_keys(key_GSE[group].index_select(0, column_K), place_K - column_K,
                                backbone.inverse_frequencies()));
      values.push_back(value_GSE[group].index_select(0, column_K));
    }
    kept.push_back({at::stack(keys).unsqueeze(0), at::stack(values).unsqueeze(0)});
  }
  return kept;
}

}  // namespace ctxc
