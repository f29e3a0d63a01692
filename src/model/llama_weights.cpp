// The tensors a Llama consists of, and where Hugging Face and GGUF files keep them.
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"
#include "model/weights.h"

namespace ctxc {
namespace {

/// Hugging Face and GGUF names within a layer.
constexpr std::array<std::pair<std::string_view, std::string_view>, 9> kLayerNames = {
    {{"input_layernorm", "attn_norm"},
     {"self_attn.q_proj", "attn_q"},
     {"self_attn.k_proj", "attn_k"},
     {"self_attn.v_proj", "attn_v"},
     {"self_attn.o_proj", "attn_output"},
     {"post_attention_layernorm", "ffn_norm"},
     {"mlp.gate_proj", "ffn_gate"},
     {"mlp.up_proj", "ffn_up"},
     {"mlp.down_proj", "ffn_down"}}};

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

/// GGUF names -> Hugging Face names.
std::map<std::string, std::string> gguf_names(int64_t layers) {
  std::map<std::string, std::string> names = {{"token_embd.weight", kEmbedding},
                                              {"output_norm.weight", "model.norm.weight"},
                                              {"output.weight", kHead}};
  for (int64_t layer = 0; layer < layers; ++layer)
    for (const auto& [hugging_face, gguf] : kLayerNames)
      names.emplace(fmt::format("blk.{}.{}.weight", layer, gguf),
                    fmt::format("model.layers.{}.{}.weight", layer, hugging_face));
  return names;
}

using Shapes = std::map<std::string, std::vector<int64_t>>;

std::string shape_text(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

/// Raises the vocabulary to the stored embedding's rows where that is legal.
void adopt_vocabulary(const Shapes& found, LlamaConfig& config, bool allow_extra_rows) {
  const auto embedding = found.find(kEmbedding);
  if (allow_extra_rows && embedding != found.end() && embedding->second.size() == 2)
    config.vocab_size = std::max(config.vocab_size, embedding->second[0]);
}

/// One error with every difference between the names and shapes found and those of the configuration.
void check_tensors(const Shapes& found, const LlamaConfig& config, const std::string& path,
                   std::vector<std::string> problems = {}) {
  std::vector<std::string> missing, unexpected;
  const Shapes expected = llama_tensor_shapes(config);
  for (const auto& [name, shape] : expected) {
    const auto it = found.find(name);
    if (it == found.end())
      missing.push_back(name);
    else if (it->second != shape)
      problems.push_back(fmt::format("{} has a wrong shape (found {}, expected {})", name,
                                     shape_text(it->second), shape_text(shape)));
  }
  for (const auto& [name, shape] : found)
    if (!expected.contains(name)) unexpected.push_back(name);
  if (!missing.empty())
    problems.push_back(fmt::format("{} tensors are missing: {}", missing.size(), join(missing, ", ")));
  if (!unexpected.empty())
    problems.push_back(
        fmt::format("{} tensors are not of this model: {}", unexpected.size(), join(unexpected, ", ")));
  CTXC_CHECK(problems.empty(), ErrorKind::kInput, "do the weights belong to this configuration?", "{}: {}",
             path, join(problems, "; "));
}

/// GGUF keeps the rows of q and k so that RoPE turns neighbours (2i, 2i+1); here it turns the halves (i, i +
/// E/2).
Tensor rotate_half_rows(const Tensor& weight, int64_t heads) {
  const int64_t rows = weight.size(0), columns = weight.size(1);
  return weight.view({heads, rows / heads / 2, 2, columns})
      .transpose(1, 2)
      .contiguous()
      .view({rows, columns});
}

std::map<std::string, Tensor> load_gguf(const std::string& path, LlamaConfig& config, bool allow_extra_rows) {
  const GgufFile file(path);
  const auto names = gguf_names(config.num_layers);
  Shapes found;
  for (const auto& [name, tensor] : file.tensors()) {
    if (name == "rope_freqs.weight") continue;  // part of the configuration, see LlamaConfig::from_gguf
    const auto known = names.find(name);
    found.emplace(known == names.end() ? name : known->second, tensor.shape);
  }
  adopt_vocabulary(found, config, allow_extra_rows);
  check_tensors(found, config, path);
  std::map<std::string, Tensor> weights;
  for (const auto& [name, tensor] : file.tensors()) {
    const auto known = names.find(name);
    if (known == names.end()) continue;
    Tensor weight = at::empty(tensor.shape, at::kFloat);
    dequantize(tensor, {weight.mutable_data_ptr<float>(), static_cast<size_t>(weight.numel())});
    if (name.ends_with("attn_q.weight")) weight = rotate_half_rows(weight, config.num_heads);
    if (name.ends_with("attn_k.weight")) weight = rotate_half_rows(weight, config.num_kv_heads);
    weights.emplace(known->second, std::move(weight));
  }
  return weights;
}

/// Entries that some files store and that carry nothing of their own: RoPE tables, a copy of a tied
/// embedding.
void drop_redundant(std::map<std::string, Tensor>& weights, const LlamaConfig& config,
                    std::vector<std::string>& problems) {
  std::erase_if(weights, [](const auto& entry) { return entry.first.ends_with(".rotary_emb.inv_freq"); });
  const auto head = weights.find(kHead), embedding = weights.find(kEmbedding);
  if (!config.tie_word_embeddings || head == weights.end() || embedding == weights.end()) return;
  if (head->second.scalar_type() != embedding->second.scalar_type() || !head->second.equal(embedding->second))
    problems.push_back("lm_head.weight differs from the embedding although tie_word_embeddings is true");
  weights.erase(head);
}

}  // namespace

std::map<std::string, std::vector<int64_t>> llama_tensor_shapes(const LlamaConfig& config) {
  const int64_t width = config.hidden_size, ffn = config.intermediate_size;
  const int64_t query = config.num_heads * config.head_dim, key = config.num_kv_heads * config.head_dim;
  Shapes shapes = {{kEmbedding, {config.vocab_size, width}}, {"model.norm.weight", {width}}};
  if (!config.tie_word_embeddings) shapes[kHead] = {config.vocab_size, width};
  const std::array<std::vector<int64_t>, kLayerNames.size()> layer_shapes = {{{width},
                                                                              {query, width},
                                                                              {key, width},
                                                                              {key, width},
                                                                              {width, query},
                                                                              {width},
                                                                              {ffn, width},
                                                                              {ffn, width},
                                                                              {width, ffn}}};
  for (int64_t layer = 0; layer < config.num_layers; ++layer)
    for (size_t i = 0; i < kLayerNames.size(); ++i)
      shapes[fmt::format("model.layers.{}.{}.weight", layer, kLayerNames[i].first)] = layer_shapes[i];
  return shapes;
}

std::map<std::string, Tensor> load_llama_weights(const std::string& path, LlamaConfig& config,
                                                 const std::string& prefix, bool allow_extra_rows) {
  if (is_gguf(path)) return load_gguf(path, config, allow_extra_rows);
  std::map<std::string, Tensor> weights;
  for (auto& [name, tensor] : load_tensors(path))
    if (name.starts_with(prefix)) weights.emplace(name.substr(prefix.size()), tensor);
  std::vector<std::string> problems;
  drop_redundant(weights, config, problems);
  Shapes found;
  for (const auto& [name, tensor] : weights) {
    found.emplace(name, tensor.sizes().vec());
    if (!tensor.is_floating_point())
      problems.push_back(fmt::format("{} has a wrong dtype (found {}, expected a floating-point type)", name,
                                     name_of(dtype_of(tensor.scalar_type()))));
  }
  adopt_vocabulary(found, config, allow_extra_rows);
  check_tensors(found, config, path, std::move(problems));
  return weights;
}

std::string weights_fingerprint(const std::string& path) {
  struct Stored {
    std::string dtype;
    std::vector<int64_t> shape;
    std::span<const std::byte> bytes;
  };
  std::map<std::string, Stored> tensors;
  std::optional<GgufFile> gguf;
  std::optional<SafetensorsSet> set;
  if (is_gguf(path)) {
    gguf.emplace(path);
    const auto names =
        gguf_names(gguf->contains("llama.block_count") ? gguf->integer("llama.block_count") : 0);
    for (const auto& [name, tensor] : gguf->tensors()) {
      const auto known = names.find(name);
      tensors[known == names.end() ? name : known->second] = {std::string(name_of(tensor.type)), tensor.shape,
                                                              tensor.bytes};
    }
  } else {
    set.emplace(path);
    for (const auto& [name, view] : set->tensors())
      tensors[name] = {std::string(name_of(view.dtype)), view.shape, view.bytes};
  }
  constexpr size_t kEdge = 4096;
  Sha256 hash;
  for (const auto& [name, stored] : tensors) {
    hash.update(
        fmt::format("{}{}{}{}{}{}", name, '\0', stored.dtype, '\0', fmt::join(stored.shape, ","), '\0'));
    const size_t edge = std::min(kEdge, stored.bytes.size());
    hash.update(stored.bytes.first(edge));
    hash.update(stored.bytes.last(edge));
  }
  return hash.hex();
}

}  // namespace ctxc
