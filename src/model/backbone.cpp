#include "model/backbone.h"

#include <algorithm>

#include "core/error.h"
#include "core/log.h"
#include "core/random.h"
#include "model/attention.h"
#include "model/kernels/norm_rope.h"
#include "model/narrow_layer.h"
#include "model/weights.h"

namespace ctxc {
namespace {

constexpr std::array<const char*, kProjections> kProjectionNames = {
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

/// Rows of the output matrix that are widened at a time when it is stored narrower than it is used.
constexpr int64_t kHeadRows = 16384;

/// The type to store a weight in: as asked, except that nothing wider than float32 is kept.
at::ScalarType storage_dtype(const std::string& asked, at::ScalarType in_file, bool trainable) {
  if (trainable || asked == "float32") return at::kFloat;
  if (asked == "bfloat16") return at::kBFloat16;
  CTXC_CHECK(asked == "auto", ErrorKind::kUsage, "",
             "backbone: unknown dtype (found '{}', expected auto, float32 or bfloat16)", asked);
  return in_file == at::kDouble ? at::kFloat : in_file;
}

Tensor head_logits(const Tensor& hidden, const Tensor& weight_VD, Products products) {
  if (weight_VD.scalar_type() == hidden.scalar_type() || products == Products::kNarrow)
    return adapted_linear(hidden, weight_VD, nullptr, products);
  std::vector<Tensor> parts;
  for (const Tensor& rows : weight_VD.split(kHeadRows, 0)) parts.push_back(adapted_linear(hidden, rows));
  return at::cat(parts, -1);
}

}  // namespace

Backbone::Backbone(LlamaConfig config, std::map<std::string, Tensor> weights, const BackboneOptions& options,
                   std::string path)
    : config_(std::move(config)), path_(std::move(path)), trainable_(options.trainable) {
  for (auto& [name, tensor] : weights) {
    Tensor stored = tensor.to(options.device, storage_dtype(options.dtype, tensor.scalar_type(), trainable_));
    // A trained weight must be ours: the mapped file is read-only.
    if (trainable_) stored = stored.is_same(tensor) ? stored.clone() : stored;
    weights_.emplace(name, stored.contiguous().detach().requires_grad_(trainable_));
  }
  for (int64_t index = 0; index < config_.num_layers; ++index) {
    const std::string prefix = fmt::format("model.layers.{}.", index);
    Layer layer{weights_.at(prefix + "input_layernorm.weight"),
                weights_.at(prefix + "post_attention_layernorm.weight"),
                {}};
    for (int p = 0; p < kProjections; ++p)
      layer.projection[p] = weights_.at(prefix + kProjectionNames[p] + ".weight");
    layers_.push_back(std::move(layer));
  }
  embedding_VD_ = weights_.at("model.embed_tokens.weight");
  head_VD_ = config_.tie_word_embeddings ? embedding_VD_ : weights_.at("lm_head.weight");
  norm_D_ = weights_.at("model.norm.weight");
  inverse_frequencies_ = rope_inverse_frequencies(config_).to(options.device);
  if (options.dtype != "bfloat16" || trainable_ || !options.device.is_cpu()) return;
  if (cpu_multiplies_bfloat16()) {
    products_ = Products::kNarrow;
  } else {
    log_warning("this CPU has no bfloat16 products: the bfloat16 weights are multiplied in float32");
  }
}

std::shared_ptr<Backbone> Backbone::load(const std::string& path, const BackboneOptions& options) {
  LlamaConfig config = LlamaConfig::load(path);
  auto weights = load_llama_weights(path, config, options.prefix, options.allow_extra_rows);
  return std::shared_ptr<Backbone>(new Backbone(std::move(config), std::move(weights), options, path));
}

std::shared_ptr<Backbone> Backbone::random(const LlamaConfig& config, uint64_t seed,
                                           const BackboneOptions& options) {
  std::map<std::string, Tensor> weights;
  uint64_t index = 0;
  for (const auto& [name, shape] : llama_tensor_shapes(config)) {
    Tensor weight = at::ones(shape, at::kFloat);
    if (shape.size() > 1) {
      CounterRng rng(seed, "backbone", 0, index);
      float* values = weight.mutable_data_ptr<float>();
      for (int64_t i = 0; i < weight.numel(); ++i)
        values[i] = static_cast<float>(rng.normal() * config.initializer_range);
    }
    weights.emplace(name, std::move(weight));
    ++index;
  }
  return std::shared_ptr<Backbone>(new Backbone(config, std::move(weights), options, ""));
}

std::shared_ptr<Backbone> Backbone::from_weights(LlamaConfig config, std::map<std::string, Tensor> weights,
                                                 const BackboneOptions& options, std::string path) {
  return std::shared_ptr<Backbone>(
      new Backbone(std::move(config), std::move(weights), options, std::move(path)));
}

at::Device Backbone::device() const {
  return embedding_VD_.device();
}

at::ScalarType Backbone::compute_dtype() const {
  // Only products are ever narrower on a CPU (see Products): what lies between them gains nothing by it.
  if (device().is_cpu()) return at::kFloat;
  return embedding_VD_.scalar_type() == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
}

at::ScalarType Backbone::product_dtype() const {
  return products_ == Products::kNarrow ? at::kBFloat16 : compute_dtype();
}

bool Backbone::trainable() const {
  return trainable_;
}

Tensor Backbone::embed(const Tensor& ids) const {
  if (ids.numel() > 0 && ids.is_cpu()) {
    const int64_t lowest = ids.min().item<int64_t>(), highest = ids.max().item<int64_t>();
    CTXC_CHECK(lowest >= 0 && highest < embedding_VD_.size(0), ErrorKind::kInput,
               "the tokenizer and the model do not belong together",
               "backbone: token id outside of the vocabulary (found {}, expected 0 to {})",
               lowest < 0 ? lowest : highest, embedding_VD_.size(0) - 1);
  }
  return at::embedding(embedding_VD_, ids.to(device())).to(compute_dtype());
}

Tensor Backbone::head_VD() const {
  return head_VD_.to(product_dtype());
}

Tensor Backbone::logits(const Tensor& hidden) const {
  return head_logits(hidden, head_VD_, products_);
}

Tensor Backbone::run_layer(int64_t index, const Tensor& x_PD, const RopeTable& rope, Attention& attention,
                           const Adapters* adapters, bool narrow, KvPair* kept) const {
  const Layer& layer = layers_[index];
  const int64_t tokens = x_PD.size(0), width = config_.head_dim;
  const auto project = [&](const Tensor& input, Projection projection) {
    const Tensor& weight = layer.projection[static_cast<int>(projection)];
    const LoraPair* pair = adapters ? adapters->find(index, projection) : nullptr;
    return narrow ? narrow_adapted(input, weight, pair) : adapted_linear(input, weight, pair, products_);
  };
  const auto norm = [&](const Tensor& input, const Tensor& weight_D) {
    return narrow ? narrow_norm(input, weight_D, config_.rms_norm_eps)
                  : rms_norm(input, weight_D, config_.rms_norm_eps);
  };
  const Tensor read_PD = norm(x_PD, layer.input_norm_D);
  const Tensor plain_query_PHE = project(read_PD, Projection::kQ).view({tokens, config_.num_heads, width});
  const Tensor plain_key_PGE = project(read_PD, Projection::kK).view({tokens, config_.num_kv_heads, width});
  const auto [query_PHE, key_PGE] =
      narrow ? std::make_tuple(narrow_rope(plain_query_PHE, rope), narrow_rope(plain_key_PGE, rope))
             : rope_qk(plain_query_PHE, plain_key_PGE, rope.cos, rope.sin);
  const Tensor value_PGE = project(read_PD, Projection::kV).view({tokens, config_.num_kv_heads, width});
  if (kept) *kept = {key_PGE.to(x_PD.scalar_type()), value_PGE.to(x_PD.scalar_type())};
  const Tensor seen_PD = x_PD + project(attention(index, query_PHE, key_PGE, value_PGE), Projection::kO);
  const Tensor thought_PD = norm(seen_PD, layer.post_norm_D);
  const Tensor gate_PF = project(thought_PD, Projection::kGate), up_PF = project(thought_PD, Projection::kUp);
  return seen_PD +
         project(narrow ? narrow_swiglu(gate_PF, up_PF) : swiglu(gate_PF, up_PF), Projection::kDown);
}

Tensor Backbone::run_narrow_layer(int64_t index, const Tensor& x_PD, const RopeTable& rope,
                                  Attention& attention) const {
  const Layer& layer = layers_[index];
  const int64_t tokens = x_PD.size(0), width = config_.head_dim;
  const auto weight = [&](Projection projection) { return layer.projection[static_cast<int>(projection)]; };
  const auto [query_PD, key_PD, value_PD] =
      normed_products(x_PD, layer.input_norm_D, config_.rms_norm_eps,
                      {weight(Projection::kQ), weight(Projection::kK), weight(Projection::kV)});
  const Tensor read_PD =
      attention(index, narrow_rope(query_PD.view({tokens, config_.num_heads, width}), rope),
                narrow_rope(key_PD.view({tokens, config_.num_kv_heads, width}), rope),
                value_PD.view({tokens, config_.num_kv_heads, width}));
  const Tensor seen_PD = product_onto(x_PD, read_PD, weight(Projection::kO));
  const auto wide_PF = normed_products(seen_PD, layer.post_norm_D, config_.rms_norm_eps,
                                       {weight(Projection::kGate), weight(Projection::kUp), Tensor()});
  return swiglu_product_onto(seen_PD, wide_PF[0], wide_PF[1], weight(Projection::kDown));
}

ForwardResult Backbone::run(Tensor x_PD, const Tensor& positions_P, int64_t batch, Attention& attention,
                            const ForwardOptions& options, bool narrow) const {
  const int64_t last = options.layers > 0 ? options.layers : config_.num_layers;
  CTXC_CHECK(last <= config_.num_layers, ErrorKind::kUsage, "",
             "backbone: more layers asked for than there are (found {}, expected at most {})", last,
             config_.num_layers);
  const std::vector<int64_t> collect = options.collect.empty() ? std::vector<int64_t>{last} : options.collect;
  for (int64_t index : collect)
    CTXC_CHECK(index >= 0 && index <= last, ErrorKind::kUsage, "",
               "backbone: no such hidden state (found {}, expected 0 to {})", index, last);
  const int64_t deepest = *std::max_element(collect.begin(), collect.end());

  ForwardResult result;
  result.hidden.resize(collect.size());
  const auto keep = [&](int64_t index, const Tensor& hidden_PD) {
    for (size_t slot = 0; slot < collect.size(); ++slot)
      if (collect[slot] == index) result.hidden[slot] = hidden_PD;
  };
  const RopeTable rope = rope_table(inverse_frequencies_, positions_P.to(device()), compute_dtype());
  keep(0, x_PD);
  for (int64_t index = 0; index < (options.keep_kv ? last : deepest); ++index) {
    KvPair kv;
    // Adapters and kept keys take the layer apart; keys of the base alone are kept as float32 gives them.
    KvPair* kept = options.keep_kv ? &kv : nullptr;
    x_PD = narrow && !kept && !options.adapters
               ? run_narrow_layer(index, x_PD, rope, attention)
               : run_layer(index, x_PD, rope, attention, options.adapters, narrow && options.adapters, kept);
    if (options.keep_kv) {
      const std::vector<int64_t> shape = {batch, -1, config_.num_kv_heads, config_.head_dim};
      result.kv.push_back(
          {kv.key_BGKE.view(shape).transpose(1, 2), kv.value_BGKE.view(shape).transpose(1, 2)});
    }
    if (index + 1 < last) keep(index + 1, x_PD);
  }
  if (deepest == last) keep(last, options.final_norm ? rms_norm(x_PD, norm_D_, config_.rms_norm_eps) : x_PD);
  return result;
}

ForwardResult Backbone::forward(const PackedRows& rows, const ForwardOptions& options) const {
  int64_t total = 0;
  for (const Segment& segment : rows.segments) total += segment.length;
  CTXC_CHECK(total == rows.embeds_PD.size(0) && total == rows.positions_P.size(0), ErrorKind::kInternal, "",
             "backbone: the segments do not fill the packed batch (found {} of {} tokens, {} positions)",
             total, rows.embeds_PD.size(0), rows.positions_P.size(0));
  PackedAttention attention(config_, rows, product_dtype());
  const bool narrow = products_ == Products::kNarrow && rows.embeds_PD.scalar_type() == at::kFloat;
  return run(rows.embeds_PD, rows.positions_P, 1, attention, options, narrow);
}

ForwardResult Backbone::forward_padded(const Tensor& embeds_BTD, const Tensor& mask_BS,
                                       const Tensor& positions_BT, const ForwardOptions& options,
                                       KvCache* cache) const {
  const int64_t batch = embeds_BTD.size(0), columns = embeds_BTD.size(1);
  PaddedAttention attention(config_, batch, columns, mask_BS, cache, compute_dtype(), device());
  ForwardResult result =
      run(embeds_BTD.reshape({batch * columns, -1}), positions_BT.reshape({-1}), batch, attention, options);
  Tensor padding_BT1;
  if (mask_BS.defined()) {
    padding_BT1 =
        mask_BS.narrow(1, mask_BS.size(1) - columns, columns).logical_not().unsqueeze(-1).to(device());
    if (!padding_BT1.any().item<bool>()) padding_BT1.reset();
  }
  for (Tensor& hidden : result.hidden) {
    hidden = hidden.view({batch, columns, -1});
    if (padding_BT1.defined()) hidden = hidden.masked_fill(padding_BT1, 0);
  }
  if (cache) cache->advance(columns);
  return result;
}

}  // namespace ctxc
