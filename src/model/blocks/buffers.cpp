#include "model/blocks/buffers.h"

#include "core/random.h"

namespace ctxc {
namespace {

Tensor pooled(const Tensor& block_TD) {
  const Tensor mean_D = block_TD.mean(0);
  return mean_D * (block_TD.norm(2, 1).mean() / mean_D.norm().clamp_min(1e-12));
}

Tensor normal_rows(int64_t count, int64_t width, double deviation, uint64_t seed) {
  Tensor rows = at::empty({count, width}, at::kFloat);
  CounterRng rng(seed, "buffers");
  float* values = rows.mutable_data_ptr<float>();
  for (int64_t i = 0; i < rows.numel(); ++i) values[i] = static_cast<float>(deviation * rng.normal());
  return rows;
}

}  // namespace

Tensor initial_buffers(const std::string& init, const Backbone& backbone, const Tokens& context,
                       int64_t count, uint64_t seed) {
  const at::NoGradGuard no_grad;
  const int64_t length = static_cast<int64_t>(context.size());
  if (init == "normal") {
    const Tensor& table = backbone.weights().at("model.embed_tokens.weight");
    return normal_rows(count, table.size(1), table.to(at::kFloat).std().item<double>(), seed)
        .to(backbone.device());
  }
  std::vector<int64_t> ids(context.begin(), context.end());
  if (init == "sample_vocab") {
    CounterRng rng(seed, "buffers");
    ids.resize(static_cast<size_t>(count));
    for (int64_t& id : ids)
      id = static_cast<int64_t>(rng.below(static_cast<uint64_t>(backbone.config().vocab_size)));
    return backbone.embed(at::tensor(ids, at::kLong)).to(at::kFloat);
  }
  const Tensor embeds_LD = backbone.embed(at::tensor(ids, at::kLong)).to(at::kFloat);
  std::vector<Tensor> rows;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t begin = i * length / count, end = (i + 1) * length / count;
    rows.push_back(init == "strided" ? embeds_LD[end - 1] : pooled(embeds_LD.slice(0, begin, end)));
  }
  return at::stack(rows);
}

BufferFrame buffer_frame(const std::string& place, bool masked, int64_t prefix, int64_t length,
                         int64_t count) {
  const Tensor index_K = at::arange(count, at::kLong);
  if (place == "tail") return {index_K + (prefix + length), {}};
  if (!masked) return {((index_K * 2 + 1) * length).div(2 * count, "floor").to(at::kLong) + prefix, {}};
  const Tensor end_K = ((index_K + 1) * length + (count - 1)).div(count, "floor").to(at::kLong);
  const Tensor column_S = at::arange(prefix + length, at::kLong);
  const Tensor seen_KS = column_S.unsqueeze(0) < (end_K + prefix).unsqueeze(1);
  const Tensor own_KK = at::ones({count, count}, at::kBool).tril_();
  return {end_K + (prefix - 1), at::cat({seen_KS, own_KK}, 1)};
}

}  // namespace ctxc
