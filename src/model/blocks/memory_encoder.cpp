#include "model/blocks/memory_encoder.h"

#include <algorithm>

#include "model/blocks/affine.h"
#include "model/blocks/slot_head.h"
#include "model/budget.h"
#include "model/device.h"
#include "model/layers.h"

namespace ctxc {
namespace {

/// Rows `index` of x along `dimension`, laid out as [B, K] there.
Tensor gather_rows(const Tensor& x, int64_t dimension, const Tensor& index_N, int64_t batch) {
  return x.index_select(dimension, index_N).unflatten(dimension, {batch, index_N.size(0) / batch});
}

}  // namespace

void MemoryEncoderConfig::describe(Fields& f) {
  f("ratio", ratio, "context tokens per memory token; 0: every text gets all of them").min(0).unit("tokens");
  f("memory_tokens", memory_tokens, "memory embeddings that are learned: no text gets more slots").min(1);
  f("init", init,
    "memory embeddings start from normal numbers of the size of the base's embeddings, or of size 1 (as "
    "published)")
      .one_of({"embedding", "normal"});
  f.section("lora", lora, "the adapters of the encoder");
  f("sink", sink, "the decoder reads a head (BOS) before the slots");
}

std::vector<KvPair> gather_keys(const std::vector<KvPair>& packed, const Tensor& index_N, int64_t batch) {
  std::vector<KvPair> found;
  const auto of_rows = [&](const Tensor& x_1GPE) {
    return gather_rows(x_1GPE[0], 1, index_N, batch).transpose(0, 1);
  };
  for (const KvPair& pair : packed) found.push_back({of_rows(pair.key_BGKE), of_rows(pair.value_BGKE)});
  return found;
}

Memory serve_keys(const Context& context, const CompressorSetup& setup, bool sink, const Encoded& encoded,
                  const Tensor& positions_BK) {
  std::vector<Tensor> positions;
  if (positions_BK.defined()) positions.push_back(positions_BK.to(at::kFloat));
  Memory memory = lay_out_slots(context, setup, sink, {}, {encoded.mask_BK}, positions);
  memory.slots_BKD = Tensor();  // the slots are keys and values
  const Tensor delta_BK = memory.position_BK - encoded.position_BK,
               frequencies = context.backbone().inverse_frequencies();
  for (const KvPair& pair : encoded.kv) {
    std::vector<Tensor> turned;
    for (int64_t row = 0; row < context.batch(); ++row)
      turned.push_back(shift_keys(pair.key_BGKE[row], delta_BK[row], frequencies));
    memory.kv.push_back({at::stack(turned), pair.value_BGKE.contiguous()});
  }
  return memory;
}

void register_lora(torch::nn::Module& module, const LoraParameters& lora) {
  for (const auto& [name, tensor] : lora.tensors()) {
    std::string flat = name;
    std::replace(flat.begin(), flat.end(), '.', '/');
    module.register_parameter(flat, tensor);
  }
}

std::map<std::string, std::string> behind_the_last_keys(const torch::nn::Module& module, int64_t layers,
                                                        const std::string& prefix) {
  std::map<std::string, std::string> idle;
  const std::string last = fmt::format("layers/{}/", layers - 1);
  for (const auto& entry : module.named_parameters())
    if (entry.key().starts_with(last) && entry.key().find("/k_proj/") == std::string::npos &&
        entry.key().find("/v_proj/") == std::string::npos)
      idle[prefix + entry.key()] = "only keys and values of the last layer are read";
  return idle;
}

MemoryEncoder::MemoryEncoder(const MemoryEncoderConfig& config, const CompressorSetup& setup)
    : config_(config) {
  lora_.emplace(config.lora, setup.backbone, setup.seed, at::kCPU);
  register_lora(*this, *lora_);
  const double deviation = config.init == "normal"        ? 1
                           : setup.embedding_VD.defined() ? table_rms(setup.embedding_VD)
                                                          : setup.backbone.initializer_range;
  memory_MD_ = register_parameter("memory_embeddings",
                                  draw({config.memory_tokens, setup.backbone.hidden_size},
                                       {Draw::Kind::kNormal, deviation}, setup.seed, "memory_embeddings"));
}

int64_t MemoryEncoder::slots_for(int64_t tokens) const {
  if (config_.ratio == 0) return config_.memory_tokens;
  return std::min((tokens + config_.ratio - 1) / config_.ratio, config_.memory_tokens);
}

Encoded MemoryEncoder::encode(Context& context, const StepKey& key, bool keep_kv) const {
  const Backbone& backbone = context.backbone();
  const int64_t batch = context.batch();
  int64_t widest = 0;
  for (int64_t length : context.lengths()) widest = std::max(widest, slots_for(length));
  const Tensor embeds_PD = context.embed();
  const Tensor memory_MD = memory_MD_.to(embeds_PD.scalar_type());
  PackedRows rows;
  std::vector<Tensor> parts;
  std::vector<int64_t> positions, index(static_cast<size_t>(batch * widest), 0);
  Encoded encoded;
  encoded.mask_BK = at::zeros({batch, widest}, at::kBool);
  encoded.position_BK = at::zeros({batch, widest}, at::kLong);
  for (int64_t row = 0; row < batch; ++row) {
    const int64_t length = context.lengths()[static_cast<size_t>(row)], slots = slots_for(length);
    check_window(length, slots, backbone.config());
    const int64_t first = static_cast<int64_t>(positions.size()) + length;
    parts.push_back(embeds_PD.narrow(0, context.offsets()[static_cast<size_t>(row)], length));
    parts.push_back(memory_MD.narrow(0, 0, slots));
    for (int64_t i = 0; i < length + slots; ++i) positions.push_back(i);
    for (int64_t k = 0; k < slots; ++k) index[static_cast<size_t>(row * widest + k)] = first + k;
    encoded.mask_BK[row].narrow(0, 0, slots).fill_(true);
    encoded.position_BK[row].narrow(0, 0, slots).copy_(at::arange(length, length + slots, at::kLong));
    rows.segments.push_back({.length = length + slots});
  }
  encoded.mask_BK = encoded.mask_BK.to(backbone.device());
  encoded.position_BK = encoded.position_BK.to(backbone.device());
  if (widest == 0) {
    encoded.hidden_BKD = embeds_PD.new_zeros({batch, 0, embeds_PD.size(1)});
    return encoded;
  }
  rows.embeds_PD = at::cat(parts);
  rows.positions_P = to_device(at::tensor(positions, at::kLong), backbone.device());
  const Adapters adapters = lora_->adapters(key);
  const ForwardResult result =
      context.run(rows, {.collect = {}, .layers = 0, .keep_kv = keep_kv, .adapters = &adapters});
  const Tensor index_N = to_device(at::tensor(index, at::kLong), backbone.device());
  encoded.hidden_BKD = gather_rows(result.hidden[0], 0, index_N, batch);
  encoded.kv = gather_keys(result.kv, index_N, batch);
  return encoded;
}

}  // namespace ctxc
