// Trained mean pooling: the baseline of "Simple Context Compression: Mean-Pooling and Multi-Ratio Training"
// (arXiv 2510.20797), here over a frozen encoder, so that it competes with the other methods on equal terms.
// Per run k of `ratio` consecutive tokens, with hidden states H^l and input embeddings E:
//   m_k = mean_{i in run k} H^l_i                       [B, K, D]
//   C_k = s_k + (W rms(m_k) + b) e_rms                  [B, K, D]    blocks/slot_head
// s_k is where a slot starts: the run's first input embedding, their mean, or nothing (`start`). e_rms is the
// rms of the embedding table. A run at the end of a text may be shorter. The paper trains the encoder itself
// too and starts from nothing.
#include "model/blocks/slot_head.h"
#include "model/blocks/transport.h"
#include "model/budget.h"

namespace ctxc {
namespace {

/// Share of a full-size start that W has beside an embedding (as the residual start of ComprExIT).
constexpr double kQuiet = 0.01;

struct MeanPoolConfig {
  int64_t ratio = 4;
  int64_t layer = -1;
  std::string start = "first";
  bool sink = true;
  void describe(Fields& f) {
    f("ratio", ratio, "context tokens per slot").min(1);
    f("layer", layer, "hidden state that is averaged: 0 is the embedding, negative counts from the end");
    f("start", start, "input embedding that a slot starts from: the first of its run, their mean, or none")
        .one_of({"first", "mean", "none"});
    f("sink", sink, "the decoder reads a head (BOS) before the slots");
  }
};

class MeanPool : public Compressor {
 public:
  using Config = MeanPoolConfig;
  MeanPool(Config config, CompressorSetup setup) : config_(std::move(config)), setup_(std::move(setup)) {
    const int64_t states = setup_.backbone.num_layers + 1, model = setup_.backbone.hidden_size;
    CTXC_CHECK(config_.layer >= -states && config_.layer < states, ErrorKind::kUsage,
               "hidden state 0 is the embedding, -1 the last",
               "compressor.layer: no such hidden state (found {}, expected {} to {})", config_.layer, -states,
               states - 1);
    layer_ = (config_.layer + states) % states;
    out_ = register_module("out", make_slot_head(model, model, setup_.seed, "out"));
    const at::NoGradGuard no_grad;
    if (config_.start != "none") out_->weight.mul_(kQuiet);
  }

  Needs needs() const override {
    // One layer more than the state read: the last layer run is followed by the final norm.
    return {.hidden = {layer_},
            .layers = std::min(layer_ + 1, setup_.backbone.num_layers),
            .lora = false,
            .kv = false};
  }

  int64_t slots_for(int64_t tokens) const override { return (tokens + config_.ratio - 1) / config_.ratio; }
  int64_t ratio() const override { return config_.ratio; }

  Compressed compress(Context& context, const StepKey&, const State&) override {
    std::vector<GridSpan> spans;
    for (int64_t row = 0; row < context.batch(); ++row)
      spans.push_back({.row = row,
                       .offset = context.offsets()[static_cast<size_t>(row)],
                       .length = context.lengths()[static_cast<size_t>(row)]});
    // A window of `ratio` tokens is one run.
    const WindowGrid grid(spans, context.batch(), context.tokens(), {config_.ratio, config_.ratio},
                          /*keep_empty=*/false, context.ids_P().device());
    const Needs needed = needs();
    const Tensor hidden_PD = context.hidden(needed.hidden, needed.layers).front().to(at::kFloat);
    Tensor slots_ND = out_->forward(run_means(hidden_PD, grid), context.backbone());
    if (config_.start != "none") {
      const Tensor embeds_PD = context.embed().to(at::kFloat);
      slots_ND = slots_ND + (config_.start == "mean" ? run_means(embeds_PD, grid)
                                                     : embeds_PD.index_select(0, grid.token_NW.select(1, 0)));
    }
    Memory memory = lay_out_slots(context, setup_, config_.sink, {grid.spread(slots_ND)},
                                  {grid.spread(grid.count_NK.select(1, 0).gt(0))});
    check_budget(memory, context.lengths(), config_.ratio);
    return {std::move(memory), {}, {}};
  }

  std::string config_yaml() const override { return dump_config(config_); }

 private:
  Config config_;
  CompressorSetup setup_;
  int64_t layer_ = 0;
  std::shared_ptr<SlotHead> out_;
};

CTXC_REGISTER_COMPRESSOR("mean_pool", MeanPool,
                         "mean of the hidden states of every few tokens through one linear map");

}  // namespace
}  // namespace ctxc
