// The untrained references, as methods like any other:
//   full           every context token is its own slot (ratio 1): the upper reference, and how a base is
//   pre-trained none           no slot: what the question alone gives truncate_head  the first ceil(N /
//   ratio) tokens truncate_tail  the last ceil(N / ratio) tokens
#include <fmt/format.h>

#include "model/budget.h"
#include "model/compressor.h"

namespace ctxc {
namespace {

enum class Keep { kAll, kNothing, kHead, kTail };

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
    if (keep == Keep::kAll) return context_tokens;
    if (keep == Keep::kNothing) return 0;
    return (context_tokens + config_.ratio - 1) / config_.ratio;
  }

  int64_t ratio() const override { return keep == Keep::kHead || keep == Keep::kTail ? config_.ratio : 0; }

  Compressed compress(Context& context, const StepKey&, const State&) override {
    const int64_t batch = context.batch();
    int64_t widest = 0;
    for (int64_t length : context.lengths()) widest = std::max(widest, slots_for(length));
    const Tensor embeds_PD = context.embed();
    const auto options = at::TensorOptions().dtype(at::kLong).device(embeds_PD.device());

    Memory memory;
    Tensor index_BK = at::zeros({batch, widest}, at::kLong);
    memory.mask_BK = at::zeros({batch, widest}, at::kBool);
    for (int64_t row = 0; row < batch; ++row) {
      const int64_t length = context.lengths()[row], kept = slots_for(length);
      const int64_t first = context.offsets()[row] + (keep == Keep::kTail ? length - kept : 0);
      if (kept == 0) continue;
      index_BK[row].slice(0, 0, kept) = at::arange(first, first + kept, at::kLong);
      memory.mask_BK[row].slice(0, 0, kept) = true;
    }
    memory.mask_BK = memory.mask_BK.to(embeds_PD.device());
    memory.slots_BKD = embeds_PD.index_select(0, index_BK.to(embeds_PD.device()).flatten())
                           .view({batch, widest, embeds_PD.size(1)});
    memory.head_ids_BP = at::tensor(at::ArrayRef<int64_t>(setup_.head_ids), options)
                             .expand({batch, static_cast<int64_t>(setup_.head_ids.size())});
    number_densely(memory, static_cast<int64_t>(setup_.head_ids.size()));
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
