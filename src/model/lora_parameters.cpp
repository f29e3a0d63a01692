#include "model/lora_parameters.h"

#include <cmath>

#include "core/error.h"
#include "core/random.h"

namespace ctxc {
namespace {

Projection projection_named(const std::string& name) {
  for (int p = 0; p < kProjections; ++p)
    if (name_of(static_cast<Projection>(p)) == name) return static_cast<Projection>(p);
  throw Error(ErrorKind::kInternal, fmt::format("no projection is called '{}'", name));
}

Tensor uniform(const std::vector<int64_t>& shape, double bound, uint64_t seed, uint64_t index) {
  Tensor tensor = at::empty(shape, at::kFloat);
  CounterRng rng(seed, "lora", 0, index);
  float* values = tensor.mutable_data_ptr<float>();
  for (int64_t i = 0; i < tensor.numel(); ++i)
    values[i] = static_cast<float>(bound * (2 * rng.uniform() - 1));
  return tensor;
}

}  // namespace

void LoraConfig::describe(Fields& f) {
  f("rank", rank, "rank of the adapters").min(1).max(4096);
  f("alpha", alpha, "adapters count alpha / rank").above(0);
  f("dropout", dropout, "share of an adapter's inputs that a training step leaves out").min(0).max(0.95);
  f("targets", targets, "projections of every layer that get one")
      .one_of({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"});
}

std::pair<int64_t, int64_t> projection_shape(const LlamaConfig& llama, Projection projection) {
  const int64_t width = llama.hidden_size, wide = llama.intermediate_size;
  const int64_t query = llama.num_heads * llama.head_dim, key = llama.num_kv_heads * llama.head_dim;
  switch (projection) {
    case Projection::kQ:
      return {query, width};
    case Projection::kK:
    case Projection::kV:
      return {key, width};
    case Projection::kO:
      return {width, query};
    case Projection::kGate:
    case Projection::kUp:
      return {wide, width};
    case Projection::kDown:
      break;
  }
  return {width, wide};
}

LoraParameters::LoraParameters(const LoraConfig& config, const LlamaConfig& llama, uint64_t seed,
                               const at::Device& device)
    : layers_(llama.num_layers),
      scale_(config.alpha / static_cast<double>(config.rank)),
      dropout_(config.dropout) {
  uint64_t index = 0;
  for (int64_t layer = 0; layer < layers_; ++layer) {
    for (const std::string& target : config.targets) {
      const Projection projection = projection_named(target);
      const auto [out, in] = projection_shape(llama, projection);
      const double bound = 1 / std::sqrt(static_cast<double>(in));
      Pair pair{layer, projection, uniform({config.rank, in}, bound, seed, index++).to(device),
                at::zeros({out, config.rank}, at::TensorOptions().dtype(at::kFloat).device(device))};
      pair.a_RD.requires_grad_(true);
      pair.b_DR.requires_grad_(true);
      const std::string name = fmt::format("layers.{}.{}", layer, target);
      tensors_.emplace_back(name + ".lora_A", pair.a_RD);
      tensors_.emplace_back(name + ".lora_B", pair.b_DR);
      pairs_.push_back(std::move(pair));
    }
  }
}

Adapters LoraParameters::adapters(const StepKey& key) const {
  Adapters adapters(layers_);
  uint64_t index = 0;
  for (const Pair& pair : pairs_) {
    const LoraDropout dropout{key.training ? dropout_ : 0, key.seed, static_cast<uint64_t>(key.step),
                              index++};
    adapters.set(pair.layer, pair.projection, {pair.a_RD, pair.b_DR, scale_, dropout});
  }
  return adapters;
}

}  // namespace ctxc
