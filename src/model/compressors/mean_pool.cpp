// Trained mean pooling: the baseline of "Simple Context Compression: Mean-Pooling and Multi-Ratio Training"
// (arXiv 2510.20797), here over a frozen encoder, so that it competes with the other methods on equal terms.
// Per run k of `ratio` consecutive tokens, with hidden states H^l and input embeddings E:
//   m_k = mean_{i in run k} H^l_i                       [B, K, D]
//   C_k = s_k + (W rms(m_k) + b) e_rms                  [B, K, D]    blocks/slot_head
// s_k is where a slot starts: the run's first input embedding, their mean, or nothing (`start`). e_rms is the
// rms of the embedding table. A run at the end of a text may be shorter. The paper trains the encoder itself
// too and starts from nothing.
#include "model/blocks/slot_head.h"
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
    const int64_t batch = context.batch();
    int64_t widest = 0;
    for (const int64_t length : context.lengths()) widest = std::max(widest, slots_for(length));
    std::vector<int64_t> slot_of, first_of(static_cast<size_t>(batch * widest), 0);
    Tensor mask_BK = at::zeros({batch, widest}, at::kBool);
    for (int64_t row = 0; row < batch; ++row) {
      const int64_t length = context.lengths()[row], slots = slots_for(length);
      for (int64_t i = 0; i < length; ++i) slot_of.push_back(row * widest + i / config_.ratio);
      for (int64_t k = 0; k < slots; ++k)
        first_of[static_cast<size_t>(row * widest + k)] = context.offsets()[row] + k * config_.ratio;
      mask_BK[row].slice(0, 0, slots) = true;
    }
    const at::Device device = context.ids_P().device();
    const Tensor slot_P = at::tensor(slot_of, at::kLong).to(device);
    mask_BK = mask_BK.to(device);

    const auto mean_of = [&](const Tensor& values_PD) {
      const Tensor wide = values_PD.to(at::kFloat);
      const Tensor sum_ND =
          at::zeros({batch * widest, wide.size(1)}, wide.options()).index_add(0, slot_P, wide);
      const Tensor count_N = at::zeros({batch * widest}, wide.options())
                                 .index_add(0, slot_P, at::ones({wide.size(0)}, wide.options()));
      return sum_ND / count_N.clamp_min(1).unsqueeze(1);
    };
    const Needs needed = needs();
    const Tensor mean_ND = mean_of(context.hidden(needed.hidden, needed.layers).front());
    Tensor slots_ND = out_->forward(mean_ND, context.backbone());
    if (config_.start == "mean") slots_ND = slots_ND + mean_of(context.embed());
    if (config_.start == "first")
      slots_ND = slots_ND +
                 context.embed().index_select(0, at::tensor(first_of, at::kLong).to(device)).to(at::kFloat);
    slots_ND = slots_ND * mask_BK.view({-1, 1});

    Memory memory =
        lay_out_slots(context, setup_, config_.sink, {slots_ND.view({batch, widest, -1})}, {mask_BK});
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
