// 500xCompressor (Li et al., arXiv 2408.03094), as the ComprExIT repository trains it: the base with LoRA
// reads the context and then memory tokens (blocks/memory_encoder), whose keys and values of every layer the
// frozen base gets as its own:
//   (K_lk, V_lk) of memory token k in layer l, key turned from where it was read (N + k) to where it is
//   served
// Slots are served without a gap behind the head (BOS), which the frozen base reads first, as everywhere
// here. The published decoder has no head in front and reads BOS behind the memory: `sink: false`, with BOS
// at the start of the text; only differences of positions count, so nothing else differs.
#include "model/blocks/memory_encoder.h"
#include "model/budget.h"

namespace ctxc {
namespace {

class FiveHundredX : public Compressor {
 public:
  using Config = MemoryEncoderConfig;
  FiveHundredX(Config config, CompressorSetup setup) : config_(std::move(config)), setup_(std::move(setup)) {
    encoder_ = register_module("encoder", std::make_shared<MemoryEncoder>(config_, setup_));
  }

  Needs needs() const override { return {.hidden = {-1}, .layers = 0, .lora = true, .kv = true}; }
  int64_t slots_for(int64_t tokens) const override { return encoder_->slots_for(tokens); }
  int64_t ratio() const override { return config_.ratio; }
  std::string config_yaml() const override { return dump_config(config_); }
  /// What acts on nothing but the last hidden state, which is not read.
  std::map<std::string, std::string> idle_parameters() const override {
    return behind_the_last_keys(*encoder_, setup_.backbone.num_layers, "encoder.");
  }

  Compressed compress(Context& context, const StepKey& key, const State&) override {
    const Encoded encoded = encoder_->encode(context, key, /*keep_kv=*/true);
    Memory memory = serve_keys(context, setup_, config_.sink, encoded);
    if (ratio() > 0) check_budget(memory, context.lengths(), ratio());
    return {std::move(memory), {}, {}};
  }

 private:
  Config config_;
  CompressorSetup setup_;
  std::shared_ptr<MemoryEncoder> encoder_;
};

CTXC_REGISTER_COMPRESSOR("500x", FiveHundredX,
                         "500xCompressor: keys and values of memory tokens that the base reads with LoRA");

}  // namespace
}  // namespace ctxc
