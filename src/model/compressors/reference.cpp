// The untrained references, as methods like any other:
//   full           every context token is its own slot (ratio 1): the upper reference, and how a base is
//   pre-trained none           no slot: what the question alone gives truncate_head  the first ceil(N /
//   ratio) tokens truncate_tail  the last ceil(N / ratio) tokens
#include "model/blocks/kept_tokens.h"
#include "model/blocks/slot_head.h"
#include "model/budget.h"

namespace ctxc {
namespace {

struct ReferenceConfig {
  int64_t ratio = 4;
  void describe(Fields& f) { f("ratio", ratio, "context tokens per kept token (truncate_*)").min(1); }
};

template <Keep keep>
class Reference : public Compressor {
 public:
  using Config = ReferenceConfig;
  Reference(Config config, CompressorSetup setup) : config_(config), setup_(std::move(setup)) {}

  Needs needs() const override { return {.hidden = {0}, .layers = 0, .lora = false, .kv = false}; }
  int64_t slots_for(int64_t context_tokens) const override {
    return kept_count(keep, context_tokens, config_.ratio);
  }
  int64_t ratio() const override { return keep == Keep::kHead || keep == Keep::kTail ? config_.ratio : 0; }

  Compressed compress(Context& context, const StepKey&, const State&) override {
    const KeptTokens kept = kept_tokens(context, keep, config_.ratio);
    Memory memory = lay_out_slots(context, setup_, /*sink=*/true, {kept.embeds_BKD}, {kept.mask_BK});
    if (ratio() > 0) check_budget(memory, context.lengths(), ratio());
    return {std::move(memory), {}, {}};
  }

  std::string config_yaml() const override { return dump_config(config_); }

 private:
  Config config_;
  CompressorSetup setup_;
};

using Full = Reference<Keep::kAll>;
using None = Reference<Keep::kNothing>;
using TruncateHead = Reference<Keep::kHead>;
using TruncateTail = Reference<Keep::kTail>;
CTXC_REGISTER_COMPRESSOR("full", Full, "the whole context, uncompressed: the upper reference");
CTXC_REGISTER_COMPRESSOR("none", None, "no context at all: the lower reference");
CTXC_REGISTER_COMPRESSOR("truncate_head", TruncateHead,
                         "the first tokens of the context, as many as there would be slots");
CTXC_REGISTER_COMPRESSOR("truncate_tail", TruncateTail,
                         "the last tokens of the context, as many as there would be slots");

}  // namespace
}  // namespace ctxc
