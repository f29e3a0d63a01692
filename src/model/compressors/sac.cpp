// SAC, the semantic-anchor compressor, as the ComprExIT repository trains it (comprexit.md section 12.3):
// there are no memory tokens; every ratio-th token of the text itself is an anchor whose keys and values in
// every layer the frozen base gets. The base with LoRA reads each chunk of the text in both directions, the
// k-th anchor of a chunk with a learned role vector added to its embedding:
//   group g    tokens [g r, min((g + 1) r, T)) of a chunk; its anchor is the one at g r + (size - 1) / 2
//   input      x_i, plus role_g where token i is the anchor of group g, at position 1 + i of the whole text;
//              every token sees its chunk
// As everywhere here the decoder reads the head (BOS) before the slots. The published one reads a learned
// vector in the place of BOS behind them, and text at the positions behind the source (`positions: source`);
// by default anchors are served without gaps, as memories for other engines have to be. Published texts are
// whole chunks; the anchor of a shorter last group is ours.
#include <algorithm>

#include "core/error.h"
#include "model/blocks/affine.h"
#include "model/blocks/memory_encoder.h"
#include "model/budget.h"
#include "model/device.h"

namespace ctxc {
namespace {

struct SacConfig {
  int64_t ratio = 4, chunk = 512;
  std::string positions = "dense";
  LoraConfig lora = MemoryEncoderConfig().lora;
  bool sink = true;
  void describe(Fields& f) {
    f("ratio", ratio, "context tokens per anchor").min(1).unit("tokens");
    f("chunk", chunk, "tokens that see one another; the anchors of a chunk have a role vector each")
        .min(1)
        .unit("tokens");
    f("positions", positions,
      "slots stand behind the head without gaps, or where their anchors stand in the text (as published)")
        .one_of({"dense", "source"});
    f.section("lora", lora, "the adapters of the encoder");
    f("sink", sink, "the decoder reads a head (BOS) before the slots");
  }
};

class Sac : public Compressor {
 public:
  using Config = SacConfig;
  Sac(Config config, CompressorSetup setup) : config_(std::move(config)), setup_(std::move(setup)) {
    CTXC_CHECK(
        config_.chunk % config_.ratio == 0, ErrorKind::kUsage,
        "make compressor.chunk a multiple of compressor.ratio",
        "compressor.chunk: its last anchor would stand for fewer tokens than the ratio says (found {} tokens "
        "at {} each)",
        config_.chunk, config_.ratio);
    lora_.emplace(config_.lora, setup_.backbone, setup_.seed, at::kCPU);
    register_lora(*this, *lora_);
    role_KD_ =
        register_parameter("role_tokens", draw({groups(config_.chunk), setup_.backbone.hidden_size},
                                               {Draw::Kind::kNormal, 0.02}, setup_.seed, "role_tokens"));
  }

  Needs needs() const override { return {.hidden = {-1}, .layers = 0, .lora = true, .kv = true}; }
  int64_t slots_for(int64_t tokens) const override {
    return tokens / config_.chunk * groups(config_.chunk) + groups(tokens % config_.chunk);
  }
  int64_t ratio() const override { return config_.ratio; }
  std::string config_yaml() const override { return dump_config(config_); }
  std::map<std::string, std::string> idle_parameters() const override {
    return behind_the_last_keys(*this, setup_.backbone.num_layers, "");
  }

  Compressed compress(Context& context, const StepKey& key, const State&) override {
    const Encoded encoded = encode(context, key);
    // Position 0 of the source is that of the head.
    const Tensor source_BK = config_.positions == "source" ? encoded.position_BK - 1 : Tensor();
    Memory memory = serve_keys(context, setup_, config_.sink, encoded, source_BK);
    check_budget(memory, context.lengths(), ratio());
    return {std::move(memory), {}, {}};
  }

 private:
  int64_t groups(int64_t tokens) const { return (tokens + config_.ratio - 1) / config_.ratio; }

  /// Where a batch's anchors are: packed index, index within its row, role.
  struct Anchors {
    std::vector<int64_t> packed, source, role;
  };
  /// Adds those of a chunk of `length` tokens that begins at `begin` of its row and `offset + begin` of the
  /// batch.
  void find(int64_t offset, int64_t begin, int64_t length, Anchors& anchors) const {
    for (int64_t group = 0; group * config_.ratio < length; ++group) {
      const int64_t first = group * config_.ratio, size = std::min(config_.ratio, length - first);
      const int64_t source = begin + first + (size - 1) / 2;
      anchors.packed.push_back(offset + source);
      anchors.source.push_back(source);
      anchors.role.push_back(group);
    }
  }

  Encoded encode(Context& context, const StepKey& key) const {
    const at::Device device = context.backbone().device();
    const int64_t batch = context.batch();
    Anchors anchors;
    PackedRows rows;
    std::vector<int64_t> positions, slots;
    int64_t widest = 0;
    for (int64_t row = 0; row < batch; ++row) {
      const int64_t length = context.lengths()[static_cast<size_t>(row)];
      check_window(length, 1, context.backbone().config());  // position 0 is left to what stands in front
      for (int64_t begin = 0; begin < length; begin += config_.chunk) {
        const int64_t size = std::min(config_.chunk, length - begin);
        find(context.offsets()[static_cast<size_t>(row)], begin, size, anchors);
        rows.segments.push_back(
            {.length = size, .mask_TS = at::ones({size, size}, at::TensorOptions(at::kBool).device(device))});
      }
      for (int64_t i = 0; i < length; ++i) positions.push_back(1 + i);
      slots.push_back(slots_for(length));
      widest = std::max(widest, slots.back());
    }
    Encoded encoded;
    encoded.mask_BK = at::zeros({batch, widest}, at::kBool);
    encoded.position_BK = at::zeros({batch, widest}, at::kLong);
    if (widest > 0) read(context, key, anchors, slots, std::move(rows), positions, encoded);
    encoded.mask_BK = encoded.mask_BK.to(device);
    encoded.position_BK = encoded.position_BK.to(device);
    return encoded;
  }

  void read(Context& context, const StepKey& key, const Anchors& anchors, const std::vector<int64_t>& slots,
            PackedRows rows, const std::vector<int64_t>& positions, Encoded& encoded) const {
    const Backbone& backbone = context.backbone();
    const auto on_device = [&](const std::vector<int64_t>& values) {
      return to_device(at::tensor(values, at::kLong), backbone.device());
    };
    const int64_t batch = context.batch(), widest = encoded.mask_BK.size(1);
    std::vector<int64_t> gathered(static_cast<size_t>(batch * widest), 0);
    for (int64_t row = 0, next = 0; row < batch; ++row)
      for (int64_t k = 0; k < slots[static_cast<size_t>(row)]; ++k, ++next) {
        gathered[static_cast<size_t>(row * widest + k)] = anchors.packed[static_cast<size_t>(next)];
        encoded.position_BK[row][k] = 1 + anchors.source[static_cast<size_t>(next)];
        encoded.mask_BK[row][k] = true;
      }
    const Tensor embeds_PD = context.embed();
    const Tensor roles_ND = role_KD_.index_select(0, on_device(anchors.role)).to(embeds_PD.scalar_type());
    rows.embeds_PD = embeds_PD.index_add(0, on_device(anchors.packed), roles_ND);
    rows.positions_P = on_device(positions);
    const Adapters adapters = lora_->adapters(key);
    const ForwardResult result =
        context.run(rows, {.collect = {}, .layers = 0, .keep_kv = true, .adapters = &adapters});
    encoded.kv = gather_keys(result.kv, on_device(gathered), batch);
  }

  Config config_;
  CompressorSetup setup_;
  std::optional<LoraParameters> lora_;
  Tensor role_KD_;
};

CTXC_REGISTER_COMPRESSOR("sac", Sac,
                         "SAC: keys and values of anchor tokens of the text, which the base reads with LoRA");

}  // namespace
}  // namespace ctxc
