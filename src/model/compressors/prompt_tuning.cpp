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
#include "model/compressor.h"

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
    if (config_.context == "none") return config_.tokens;
    return config_.tokens + (config_.context == "full"
                                 ? context_tokens
                                 : (context_tokens + config_.ratio - 1) / config_.ratio);
  }

  Compressed compress(Context& context, const StepKey&, const State&) override {
    const int64_t batch = context.batch(), head = static_cast<int64_t>(setup_.head_ids.size());
    const at::Device device = delta_KD_.device();
    const Tensor rows_KD = context.backbone().embed(ids_K_.to(device));
    const Tensor virtual_KD = rows_KD + delta_KD_.to(rows_KD.scalar_type());

    // Row b of the packed source is [virtual tokens; all contexts]: slots are gathered from it by index.
    int64_t widest = 0;
    for (int64_t length : context.lengths()) widest = std::max(widest, slots_for(length));
    Tensor index_BK = at::zeros({batch, widest}, at::kLong), mask_BK = at::zeros({batch, widest}, at::kBool);
    for (int64_t row = 0; row < batch; ++row) {
      const int64_t length = context.lengths()[row], read = slots_for(length) - config_.tokens;
      const int64_t step = config_.context == "strided" ? config_.ratio : 1;
      index_BK[row].slice(0, 0, config_.tokens) = at::arange(config_.tokens, at::kLong);
      const int64_t first =
          config_.tokens + context.offsets()[row] + (config_.context == "tail" ? length - read : 0);
      if (read > 0)
        index_BK[row].slice(0, config_.tokens, config_.tokens + read) =
            at::arange(first, first + read * step, step, at::kLong);
      mask_BK[row].slice(0, 0, config_.tokens + read) = true;
    }
    const Tensor source_PD = config_.context == "none" ? virtual_KD : at::cat({virtual_KD, context.embed()});

    Memory memory;
    memory.slots_BKD =
        source_PD.index_select(0, index_BK.to(device).flatten()).view({batch, widest, source_PD.size(1)});
    memory.mask_BK = mask_BK.to(device);
    memory.head_ids_BP = at::tensor(at::ArrayRef<int64_t>(setup_.head_ids),
                                    at::TensorOptions().dtype(at::kLong).device(device))
                             .expand({batch, head});
    number_densely(memory, head);
    return {std::move(memory), {}, {}};
  }

  std::string config_yaml() const override { return dump_config(config_); }

 private:
  Config config_;
  CompressorSetup setup_;
  Tensor ids_K_, delta_KD_;
};

CTXC_REGISTER_COMPRESSOR(
    "prompt_tuning", PromptTuning,
    "trained virtual tokens with the full context, part of it, or none: reference for trained compressors");

}  // namespace
}  // namespace ctxc
