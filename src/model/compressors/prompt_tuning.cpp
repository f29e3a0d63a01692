// Prompt tuning (Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning", EMNLP 2021), as
// the fair reference for trained compressors: what a frozen Llama answers once it has learned the task's
// form.
//   context: full     slots = [virtual tokens, context embeddings]: the upper reference
//   context: none     slots = virtual tokens alone: the lower reference
//   context: head     … and the first ceil(N / ratio) tokens: truncation, once the form is learned
//   context: tail     … the last ones
//   context: strided  … the first of every `ratio` tokens: a text with gaps
// Virtual token i is E[id_i] + delta_i: it starts as a row of the base's vocabulary (init_ids, or rows drawn
// once for all by a fixed stream) and delta_i, the only parameter, starts at zero. So a checkpoint needs no
// copy of E.
#include <fmt/format.h>

#include <algorithm>

#include "core/random.h"
#include "model/blocks/kept_tokens.h"
#include "model/blocks/slot_head.h"

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
    f("init_ids", init_ids,
      "token ids (of a text, as ctxc-inspect tokenize gives them) the virtual tokens start from, repeated to "
      "the length; "
      "empty: random rows of the vocabulary");
  }
};

class PromptTuning : public Compressor {
 public:
  using Config = PromptTuningConfig;
  PromptTuning(Config config, CompressorSetup setup) : config_(std::move(config)), setup_(std::move(setup)) {
    const int64_t vocabulary = setup_.backbone.vocab_size;
    std::vector<int64_t> ids(static_cast<size_t>(config_.tokens));
    CounterRng rows(0, "prompt_tuning.init");
    for (size_t i = 0; i < ids.size(); ++i) {
      if (config_.init_ids.empty()) {
        ids[i] = static_cast<int64_t>(rows.below(static_cast<uint64_t>(vocabulary)));
        continue;
      }
      ids[i] = config_.init_ids[i % config_.init_ids.size()];
      CTXC_CHECK(
          ids[i] >= 0 && ids[i] < vocabulary, ErrorKind::kUsage, "make the ids with ctxc-inspect tokenize",
          "compressor.init_ids: token id out of range (found {}, expected 0..{})", ids[i], vocabulary - 1);
    }
    ids_K_ = at::tensor(ids, at::kLong);
    delta_KD_ = register_parameter("delta", at::zeros({config_.tokens, setup_.backbone.hidden_size}));
  }

  Needs needs() const override { return {.hidden = {0}, .layers = 0, .lora = false, .kv = false}; }

  int64_t slots_for(int64_t context_tokens) const override {
    return config_.tokens + kept_count(keep(), context_tokens, config_.ratio);
  }

  Compressed compress(Context& context, const StepKey&, const State&) override {
    const int64_t batch = context.batch();
    const Tensor rows_KD = context.backbone().embed(ids_K_.to(delta_KD_.device()));
    const Tensor virtual_KD = rows_KD + delta_KD_.to(rows_KD.scalar_type());
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
