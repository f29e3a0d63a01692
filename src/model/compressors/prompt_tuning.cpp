// Prompt tuning (Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021), as
// the fair reference for trained compressors: what a frozen Llama answers once it has learned the task's
// form.
//   context: full     slots = [virtual tokens, context embeddings]: the upper reference
//   context: none     slots = virtual tokens alone: the lower reference
//   context: head     … and the first ceil(N / ratio) tokens: truncation, once the form is learned
//   context: tail     … the last ones
//   context: strided  … the first of every `ratio` tokens: a text with gaps
// Virtual tokens: blocks/virtual_tokens.
#include "model/blocks/kept_tokens.h"
#include "model/blocks/slot_head.h"
#include "model/blocks/virtual_tokens.h"

namespace ctxc {
namespace {

struct PromptTuningConfig {
  std::string context = "full";
  int64_t tokens = 32, ratio = 4;
  std::vector<int64_t> init_ids;
  void describe(Fields& f) {
    f("context", context,
      "what stands behind the virtual tokens: the whole context, nothing, or one token in `ratio` "
      "(the first, the last, or evenly spread ones)")
        .one_of({"full", "none", "head", "tail", "strided"});
    f("ratio", ratio, "context tokens per token read (head, tail, strided)").min(1);
    f("tokens", tokens, "virtual tokens").min(1).unit("tokens");
    f("init_ids", init_ids, kInitIdsHelp);
  }
};

class PromptTuning : public Compressor {
 public:
  using Config = PromptTuningConfig;
  PromptTuning(Config config, CompressorSetup setup) : config_(std::move(config)), setup_(std::move(setup)) {
    ids_K_ = virtual_token_ids(config_.tokens, config_.init_ids, setup_.backbone.vocab_size);
    delta_KD_ = register_parameter("delta", at::zeros({config_.tokens, setup_.backbone.hidden_size}));
  }

  Needs needs() const override { return {.hidden = {0}, .layers = 0, .lora = false, .kv = false}; }

  int64_t slots_for(int64_t context_tokens) const override {
    return config_.tokens + kept_count(keep(), context_tokens, config_.ratio);
  }

  Compressed compress(Context& context, const StepKey&, const State&) override {
    const int64_t batch = context.batch();
    const Tensor virtual_KD = virtual_tokens(ids_K_, delta_KD_, context.backbone());
    const KeptTokens kept = kept_tokens(context, keep(), config_.ratio);
    const Tensor there_BK = at::ones({batch, config_.tokens}, kept.mask_BK.options());
    return {lay_out_slots(context, setup_, /*sink=*/true,
                          {virtual_KD.expand({batch, -1, -1}), kept.embeds_BKD}, {there_BK, kept.mask_BK}),
            {},
            {}};
  }

  std::string config_yaml() const override { return dump_config(config_); }

 private:
  Keep keep() const { return keep_named(config_.context); }

  Config config_;
  CompressorSetup setup_;
  Tensor ids_K_, delta_KD_;
};

CTXC_REGISTER_COMPRESSOR(
    "prompt_tuning", PromptTuning,
    "trained virtual tokens with the full context, part of it, or none: reference for trained compressors");

}  // namespace
}  // namespace ctxc
