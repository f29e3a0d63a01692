// Latent Context Compilation (Li, Zhou, Xu, "Latent Context Compilation: Distilling Long Context into Compact
// Portable Memory", arXiv 2602.21221): one long context becomes the keys and values of K buffer tokens.
//   compile pass   buffers B [K, D] run over the frozen keys and values of [header, context], LoRA on
//   rotation       slot i stood at p_c(i) and will be served at p_s(i) = p + i: its keys are turned by the
//                  difference, inside the graph, so that what is trained is what is served
//   read pass      [KV(header), KV(B)] in front of query and answer, base frozen, LoRA off
// The LoRA is thrown away; the keys and values are the artifact. Variant `artifact: embeds` (ICAE's form):
// the buffers' last hidden states before the final norm, times a learned scale, are read as input embeddings.
// Baselines in the same loop: `optimise: buffers` (no LoRA), `optimise: kv` (the slots' keys and values
// themselves, as in Cartridges), `optimise: snapkv | truncate` (rows of the context, nothing is trained).
// What the paper leaves open is marked [N] in the design page.
#include <optional>

#include "core/error.h"
#include "model/blocks/buffers.h"
#include "model/blocks/eviction.h"
#include "model/lora_parameters.h"
#include "model/per_document.h"

namespace ctxc {
namespace {

struct BufferConfig {
  std::string init = "mean_pool";
  double lr = 1e-3;
  void describe(Fields& f) {
    f("init", init, "input embeddings the buffers start from")
        .one_of({"mean_pool", "strided", "sample_vocab", "normal"});
    f("lr", lr, "peak learning rate of the buffers").above(0);
  }
};

struct LccConfig {
  std::string preset = "default";
  int64_t ratio = 16;
  std::string optimise = "lora", artifact = "kv", lora_scope = "buffers", pos = "tail";
  bool spread_mask = false;
  double kv_lr = 2e-2;
  LoraConfig lora;
  BufferConfig buffers;
  CompileRecipe recipe;
  void describe(Fields& f) {
    f("preset", preset,
      "what the other keys (also of train, queries and prompt) default to; paper: as published; small: for a "
      "few "
      "CPU cores")
        .one_of({"default", "paper", "small"});
    f("ratio", ratio, "context tokens per slot").min(1).unit("tokens");
    f("optimise", optimise,
      "lora: buffers and LoRA; buffers: without LoRA; kv: the slots' keys and values themselves; untrained: "
      "snapkv "
      "(tokens that the end of the context attends to), truncate (its first tokens)")
        .one_of({"lora", "buffers", "kv", "snapkv", "truncate"});
    f("artifact", artifact, "kind of memory that is compiled").one_of({"kv", "embeds"});
    f("lora_scope", lora_scope,
      "rows the LoRA acts on: the buffers' (the context is then read once, by the frozen base), or the "
      "context's as well")
        .one_of({"buffers", "all"});
    f("pos", pos, "positions of the buffers in the compile pass: behind the context, or spread over it")
        .one_of({"tail", "spread"});
    f("spread_mask", spread_mask, "with pos: spread, hide context behind a buffer's block from it");
    f("kv_lr", kv_lr, "peak learning rate of optimise: kv").above(0);
    f.section("lora", lora, "the disposable adapters");
    f.section("buffers", buffers, "the learned input embeddings");
    recipe.describe(f);
  }
};

class Lcc : public PerDocument {
 public:
  using Config = LccConfig;
  Lcc(Config config, CompressorSetup setup) : config_(std::move(config)), setup_(std::move(setup)) {
    const bool embeds = config_.optimise == "lora" || config_.optimise == "buffers";
    CTXC_CHECK(embeds || config_.artifact == "kv", ErrorKind::kUsage, "set compressor.artifact=kv",
               "compressor.optimise: {} has no input embeddings to export", config_.optimise);
    CTXC_CHECK(config_.artifact == "kv" || config_.recipe.storage != "int8", ErrorKind::kUsage,
               "set compressor.storage=bfloat16, or compressor.artifact=kv",
               "compressor.storage: int8 is for keys and values (found compressor.artifact: {})",
               config_.artifact);
    CTXC_CHECK(config_.artifact == "kv" || config_.recipe.segments == "independent", ErrorKind::kUsage,
               "set compressor.segments=independent", "compressor.artifact: embeds cannot chain segments");
    CTXC_CHECK(!evicts() || config_.recipe.warm_start.empty(), ErrorKind::kUsage,
               "leave compressor.warm_start out", "compressor.optimise: {} has no buffers to start",
               config_.optimise);
    CTXC_CHECK(config_.recipe.teacher.store == "hidden" || config_.recipe.align_loss == "kl" ||
                   config_.recipe.align_loss == "ce",
               ErrorKind::kUsage, "set compressor.teacher.store=hidden",
               "compressor.teacher.store: topk is for the forward KL (found compressor.align_loss: {})",
               config_.recipe.align_loss);
    config_.recipe.lambdas();  // refused here rather than after the teacher has answered
  }

  Needs needs() const override { return {.hidden = {}, .layers = 0, .lora = true, .kv = true}; }
  int64_t slots_for(int64_t tokens) const override { return (tokens + config_.ratio - 1) / config_.ratio; }
  std::string config_yaml() const override { return dump_config(config_); }
  const CompileRecipe& recipe() const override { return config_.recipe; }

  void begin(const Backbone& backbone, const Document& document) override {
    document_ = document;
    CTXC_CHECK(
        document.start_kv.empty() || config_.optimise == "kv", ErrorKind::kUsage,
        "set compressor.optimise=kv, or name a run that makes slots (comprexit, diffusion)",
        "compressor.warm_start: keys and values are no start for buffers (found compressor.optimise: {})",
        config_.optimise);
    slots_ = document.start_KD.defined() ? document.start_KD.size(0)
             : document.start_kv.empty() ? slots_for(document.length())
                                         : document.start_kv[0].key_BGKE.size(2);
    lora_.reset();
    keys_.clear();
    values_.clear();
    kept_.clear();
    scale_ = Tensor();
    if (evicts()) {
      kept_ = config_.optimise == "snapkv" ? snapkv_rows(backbone, document, slots_)
                                           : truncated_rows(document, slots_);
      return;
    }
    if (!document.start_kv.empty()) {
      begin_kv(document.start_kv);
      return;
    }
    frame_ = buffer_frame(config_.pos, config_.spread_mask, document.prefix, document.length(), slots_);
    buffers_KD_ =
        document.start_KD.defined()
            ? document.start_KD.to(at::kFloat).clone()
            : initial_buffers(config_.buffers.init, backbone, document.context, slots_, setup_.seed).detach();
    if (config_.optimise == "lora")
      lora_.emplace(config_.lora, backbone.config(), setup_.seed, backbone.device());
    if (config_.artifact == "embeds") begin_scale(backbone);
    if (config_.optimise == "kv") {
      const at::NoGradGuard no_grad;
      begin_kv(compile(backbone).kv);  // the untrained buffers'
    }
    if (config_.optimise != "kv") buffers_KD_.requires_grad_(true);
  }

  Memory memory(const Backbone& backbone, const StepKey& key) override {
    if (config_.artifact == "embeds") return embeds_memory(backbone, key);
    std::vector<KvPair> kv = evicts()                   ? kept_
                             : config_.optimise == "kv" ? free_kv()
                                                        : compile(backbone, key).kv;
    const std::vector<KvPair> prefix = document_.first_rows(document_.prefix);
    for (size_t layer = 0; layer < kv.size(); ++layer)
      kv[layer] = {at::cat({prefix[layer].key_BGKE, kv[layer].key_BGKE}, 2),
                   at::cat({prefix[layer].value_BGKE, kv[layer].value_BGKE}, 2)};
    return kv_memory(std::move(kv));
  }

  std::vector<ParameterGroup> groups() const override {
    std::vector<ParameterGroup> groups;
    if (evicts()) return groups;
    if (config_.optimise == "kv") {
      ParameterGroup group{"kv", {}, config_.kv_lr};
      for (size_t layer = 0; layer < keys_.size(); ++layer) {
        group.tensors.emplace_back(fmt::format("layers.{}.key", layer), keys_[layer]);
        group.tensors.emplace_back(fmt::format("layers.{}.value", layer), values_[layer]);
      }
      return {group};
    }
    groups.push_back({"buffers", {{"buffers", buffers_KD_}}, config_.buffers.lr});
    if (scale_.defined()) groups.back().tensors.emplace_back("scale", scale_);
    if (lora_) groups.push_back({"lora", lora_->tensors(), 0});
    return groups;
  }

  std::optional<Adapters> adapters() const override {
    return lora_ ? std::optional<Adapters>(lora_->adapters()) : std::nullopt;
  }

 private:
  /// Rows of the context itself: nothing to train.
  bool evicts() const { return config_.optimise == "snapkv" || config_.optimise == "truncate"; }

  /// The compile pass: hidden states before the final norm [K, D], and the slots' keys (already turned to
  /// where they are served) and values.
  ForwardResult compile(const Backbone& backbone, const StepKey& key = {.training = false}) const {
    const bool whole = config_.lora_scope == "all";
    const int64_t length = document_.length(), prefix = document_.prefix;
    const std::optional<Adapters> adapters =
        lora_ ? std::optional<Adapters>(lora_->adapters(key)) : std::nullopt;
    PackedRows rows;
    Segment segment{.length = slots_, .mask_TS = frame_.mask_KS, .prefix_row = 0};
    rows.embeds_PD = buffers_KD_.to(backbone.compute_dtype());
    rows.positions_P = frame_.position_K.to(backbone.device());
    rows.prefix = whole ? document_.first_rows(prefix) : document_.frozen;
    if (whole) {
      const std::vector<int64_t> ids(document_.context.begin(), document_.context.end());
      rows.embeds_PD = at::cat({backbone.embed(at::tensor(ids, at::kLong)), rows.embeds_PD});
      rows.positions_P =
          at::cat({at::arange(prefix, prefix + length, at::kLong).to(backbone.device()), rows.positions_P});
      segment.length = length + slots_;
      segment.mask_TS = whole_mask();
    }
    if (segment.mask_TS.defined()) segment.mask_TS = segment.mask_TS.to(backbone.device());
    rows.segments = {segment};
    ForwardResult result = backbone.forward(rows, {.collect = {},
                                                   .layers = 0,
                                                   .keep_kv = true,
                                                   .adapters = adapters ? &*adapters : nullptr,
                                                   .final_norm = false});
    const int64_t first = segment.length - slots_;
    const Tensor delta_K =
        (at::arange(prefix, prefix + slots_, at::kLong) - frame_.position_K).to(backbone.device());
    for (KvPair& pair : result.kv)
      pair = {shift_keys(pair.key_BGKE.narrow(2, first, slots_), delta_K, backbone.inverse_frequencies()),
              pair.value_BGKE.narrow(2, first, slots_)};
    result.hidden[0] = result.hidden[0].narrow(0, first, slots_);
    return result;
  }

  /// Of [context, buffers] over the prefix; undefined = causal throughout.
  Tensor whole_mask() const {
    if (!frame_.mask_KS.defined()) return {};
    const int64_t length = document_.length(), prefix = document_.prefix;
    const Tensor context_LS = at::ones({length, prefix + length + slots_}, at::kBool).tril_(prefix);
    return at::cat({context_LS, frame_.mask_KS});
  }

  Memory embeds_memory(const Backbone& backbone, const StepKey& key) const {
    Memory memory;
    const std::vector<int64_t> header(document_.header.begin(), document_.header.end());
    memory.head_ids_BP =
        at::tensor(header, at::kLong).view({1, static_cast<int64_t>(header.size())}).to(backbone.device());
    memory.slots_BKD = (compile(backbone, key).hidden[0] * scale_.to(backbone.compute_dtype())).unsqueeze(0);
    memory.mask_BK = at::ones({1, slots_}, at::TensorOptions().dtype(at::kBool).device(backbone.device()));
    number_densely(memory, static_cast<int64_t>(header.size()));
    return memory;
  }

  std::vector<KvPair> free_kv() const {
    std::vector<KvPair> kv;
    for (size_t layer = 0; layer < keys_.size(); ++layer)
      kv.push_back({keys_[layer].to(document_.frozen[layer].key_BGKE.scalar_type()),
                    values_[layer].to(document_.frozen[layer].value_BGKE.scalar_type())});
    return kv;
  }

  /// Hidden states are far larger than embeddings: the scale starts at the ratio of their norms.
  void begin_scale(const Backbone& backbone) {
    const at::NoGradGuard no_grad;
    const Tensor hidden_KD = compile(backbone).hidden[0].to(at::kFloat);
    scale_ = (buffers_KD_.norm(2, 1).mean() / hidden_KD.norm(2, 1).mean()).detach();
    scale_.requires_grad_(true);
  }

  /// Keys and values as parameters.
  void begin_kv(const std::vector<KvPair>& kv) {
    const at::NoGradGuard no_grad;
    for (const KvPair& pair : kv) {
      keys_.push_back(pair.key_BGKE.to(at::kFloat).clone().requires_grad_(true));
      values_.push_back(pair.value_BGKE.to(at::kFloat).clone().requires_grad_(true));
    }
  }

  Config config_;
  CompressorSetup setup_;
  Document document_;
  int64_t slots_ = 0;
  BufferFrame frame_;
  Tensor buffers_KD_, scale_;
  std::optional<LoraParameters> lora_;
  std::vector<Tensor> keys_, values_;  ///< optimise: kv
  std::vector<KvPair> kept_;           ///< optimise: snapkv, truncate
};

CTXC_REGISTER_COMPRESSOR("lcc", Lcc,
                         "Latent Context Compilation: a disposable LoRA turns one context into a KV memory");

}  // namespace
}  // namespace ctxc
