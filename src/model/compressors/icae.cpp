// ICAE, the in-context autoencoder (Ge et al., arXiv 2307.06945), as the ComprExIT repository trains it: the
// base with LoRA reads the context and then memory tokens (blocks/memory_encoder); their last hidden states,
// after the final norm, are the slots that the frozen base reads as input embeddings:
//   C_k = s h_k,   h_k the last hidden state of memory token k
// A hidden state of the base is far larger than an embedding: by default s gives every slot the size of one,
// times a learned number that starts at 1. Published: s = 1 (`scale: false`, with `init: normal`).
#include "model/blocks/memory_encoder.h"
#include "model/blocks/slot_head.h"
#include "model/budget.h"

namespace ctxc {
namespace {

struct IcaeConfig {
  MemoryEncoderConfig encoder;
  bool scale = true;
  void describe(Fields& f) {
    encoder.describe(f);
    f("scale", scale,
      "slots have the size of input embeddings, times a learned number (published: as they come)");
  }
};

class Icae : public Compressor {
 public:
  using Config = IcaeConfig;
  Icae(Config config, CompressorSetup setup) : config_(std::move(config)), setup_(std::move(setup)) {
    encoder_ = register_module("encoder", std::make_shared<MemoryEncoder>(config_.encoder, setup_));
    if (config_.scale) scale_ = register_parameter("scale", at::ones({}));
  }

  Needs needs() const override { return {.hidden = {-1}, .layers = 0, .lora = true, .kv = false}; }
  int64_t slots_for(int64_t tokens) const override { return encoder_->slots_for(tokens); }
  int64_t ratio() const override { return config_.encoder.ratio; }
  std::string config_yaml() const override { return dump_config(config_); }

  Compressed compress(Context& context, const StepKey& key, const State&) override {
    const Encoded encoded = encoder_->encode(context, key, /*keep_kv=*/false);
    Tensor slots_BKD = encoded.hidden_BKD;
    if (config_.scale) {
      const Tensor size = slots_BKD.to(at::kFloat).square().mean(-1, true).add(1e-12).rsqrt();
      slots_BKD = slots_BKD * size * (size_.of(context.backbone()) * scale_);
    }
    Memory memory = lay_out_slots(context, setup_, config_.encoder.sink, {slots_BKD}, {encoded.mask_BK});
    if (ratio() > 0) check_budget(memory, context.lengths(), ratio());
    return {std::move(memory), {}, {}};
  }

 private:
  Config config_;
  CompressorSetup setup_;
  std::shared_ptr<MemoryEncoder> encoder_;
  Tensor scale_;
  EmbeddingRms size_;
};

CTXC_REGISTER_COMPRESSOR("icae", Icae,
                         "ICAE: last hidden states of memory tokens that the base reads with LoRA");

}  // namespace
}  // namespace ctxc
