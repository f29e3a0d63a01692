// ComprExIT: context compression by explicit information transmission (arXiv 2602.03784; official repository
// Jiangnan0522/ComprExIT, whose parameter names are kept so that checkpoints map one to one).
// A frozen encoder pass gives every token its hidden states h_0..h_L. Depth-wise transmission
// (blocks/depth_fusion) fuses them into one anchor a token; width-wise transmission (blocks/transport) moves
// the anchors of a window of W tokens onto K = ceil(W / ratio) slots by an entropic transport plan; an MLP
// projects the slots into the embedding space. Off in the parity preset: `grid: text` (windows start at the
// first token, so padding changes nothing), `positions: dense` (training counts positions as generation does)
// and `init: residual` (slots start as embeddings of their run).
#include <cmath>

#include "core/error.h"
#include "model/blocks/depth_fusion.h"
#include "model/blocks/transport.h"
#include "model/budget.h"
#include "model/compressor.h"

namespace ctxc {
namespace {

/// The learned path of `init: residual` starts this much smaller than the paper's.
constexpr double kResidualStart = 0.02;

struct ComprexitConfig {
  int64_t ratio = 4, window = 128, gate_width = 256, metric_width = 256, sinkhorn_iterations = 30;
  double epsilon = 0.1, gate_temperature = 0.7, source_floor = 0.05, source_temperature = 1;
  std::string source_mass = "learned";
  int64_t layers = 0;
  std::optional<int64_t> single_layer;
  int64_t projector_depth = 2;
  double projector_gain = 0.4;
  std::string grid = "text", positions = "dense";
  int64_t map_reduce_segment = 0;
  std::string init = "paper", residual_source = "mean";

  void describe(Fields& f) {
    f("ratio", ratio, "context tokens per slot").min(1);
    f("window", window, "tokens one transport plan covers").min(1).unit("tokens");
    f("gate_width", gate_width, "width of the depth-wise gate's queries and keys").min(1);
    f("metric_width", metric_width, "width of the space the transport cost is measured in").min(1);
    f("sinkhorn_iterations", sinkhorn_iterations, "iterations of the transport plan").min(1).max(1000);
    f("epsilon", epsilon, "entropic regularisation of the transport plan").min(0.01).max(100);
    f("gate_temperature", gate_temperature, "temperature of the depth-wise softmax over layers").above(0);
    f("source_mass", source_mass, "how much each token has to give").one_of({"learned", "uniform"});
    f("source_floor", source_floor, "share of the source mass that stays uniform").min(0).max(1);
    f("source_temperature", source_temperature, "temperature of the learned source mass").above(0);
    f("layers", layers, "encoder layers run and read; 0 = all").min(0).unit("layers");
    f("single_layer", single_layer, "read this hidden state only, without a gate; negative = from the end");
    f("projector_depth", projector_depth, "linear layers of the projector; 0 = none").min(0).max(8);
    f("projector_gain", projector_gain, "Xavier gain of the projector's initial weights").above(0);
    f("grid", grid, "where windows start: at the first token, or of the left-padded row (parity)")
        .one_of({"text", "padded"});
    f("positions", positions,
      "slot positions in training: as in generation, or masked slots keep theirs (parity)")
        .one_of({"dense", "column"});
    f("map_reduce_segment", map_reduce_segment, "compress pieces of this many tokens apart; 0 = off")
        .min(0)
        .unit("tokens");
    f("init", init, "residual = slots start as an input embedding of their run")
        .one_of({"paper", "residual"});
    f("residual_source", residual_source, "which embedding `init: residual` adds").one_of({"mean", "last"});
  }
};

struct Pooling : torch::nn::Module {
  Pooling(const ComprexitConfig& config, int64_t width, int64_t states, uint64_t seed) {
    auto linear_of = [&](const std::string& name, int64_t in, int64_t out) {
      return register_module(name, make_linear(in, out, seed, "pooling_layer." + name));
    };
    if (config.single_layer) {
      layer_fusion_prj = linear_of("layer_fusion_prj", width, width);
    } else {
      depth.query_fusion_weights =
          register_parameter("query_fusion_weights", at::zeros({states}, at::kFloat));
      depth.layer_fusion_layer_embeddings = register_parameter(
          "layer_fusion_layer_embeddings", draw({states, config.gate_width}, {Draw::Kind::kNormal, 0.02},
                                                seed, "pooling_layer.layer_fusion_layer_embeddings"));
      depth.layer_fusion_q_prj = linear_of("layer_fusion_q_prj", width, config.gate_width);
      depth.layer_fusion_k_prj = linear_of("layer_fusion_k_prj", width, config.gate_width);
      depth.layer_fusion_v_prj = linear_of("layer_fusion_v_prj", width, width);
    }
    this->width.metric_ln = register_module("metric_ln", make_layer_norm(width));
    this->width.metric_prj = linear_of("metric_prj", width, config.metric_width);
    this->width.value_ln = register_module("value_ln", make_layer_norm(width));
    this->width.value_prj = linear_of("value_prj", width, width);
    if (config.source_mass == "learned") {
      auto mass = register_module("source_mass", std::make_shared<torch::nn::Module>());
      this->width.mass_ln = mass->register_module("ln", make_layer_norm(width));
      this->width.mass_prj = mass->register_module(
          "mass_prj",
          std::make_shared<Affine>(at::zeros({1, width}, at::kFloat), at::zeros({1}, at::kFloat)));
    }
  }
  DepthParameters depth;
  std::shared_ptr<Affine> layer_fusion_prj;  ///< of single_layer, instead of `depth`
  WidthParameters width;
};

/// Linear (GELU Linear)*: the peer's names, mlp.0, mlp.2, …
struct Projector : torch::nn::Module {
  Projector(const ComprexitConfig& config, int64_t width, uint64_t seed) {
    auto mlp = register_module("mlp", std::make_shared<torch::nn::Module>());
    for (int64_t i = 0; i < config.projector_depth; ++i) {
      const std::string name = std::to_string(2 * i);
      const bool quiet = config.init == "residual" && i + 1 == config.projector_depth;
      const Draw rule{Draw::Kind::kUniform, config.projector_gain *
                                                std::sqrt(6.0 / static_cast<double>(2 * width)) *
                                                (quiet ? kResidualStart : 1)};
      layers.push_back(mlp->register_module(
          name,
          std::make_shared<Affine>(draw({width, width}, rule, seed, "projector.mlp." + name + ".weight"),
                                   at::zeros({width}, at::kFloat))));
    }
  }
  Tensor forward(Tensor x) const {
    for (size_t i = 0; i < layers.size(); ++i) x = linear(i == 0 ? x : at::gelu(x), *layers[i]);
    return x;
  }
  std::vector<std::shared_ptr<Affine>> layers;
};

class Comprexit : public Compressor {
 public:
  using Config = ComprexitConfig;
  Comprexit(Config config, CompressorSetup setup)
      : config_(std::move(config)), setup_(std::move(setup)), shape_{config_.window, config_.ratio} {
    check();
    const int64_t width = setup_.backbone.hidden_size;
    pooling_ =
        register_module("pooling_layer", std::make_shared<Pooling>(config_, width, states(), setup_.seed));
    projector_ = register_module("projector", std::make_shared<Projector>(config_, width, setup_.seed));
  }

  Needs needs() const override {
    return {.hidden = read_states(), .layers = config_.layers, .lora = false, .kv = false};
  }

  int64_t slots_for(int64_t tokens) const override {
    const int64_t piece = config_.map_reduce_segment;
    if (piece == 0) return shape_.slots_for(tokens);
    return tokens / piece * shape_.slots_for(piece) + shape_.slots_for(tokens % piece);
  }

  /// Ragged windows, and windows that begin in the padding, may give a slot more than the ratio allows.
  int64_t ratio() const override {
    const bool even = config_.window % config_.ratio == 0 && config_.map_reduce_segment % config_.ratio == 0;
    return even && config_.grid == "text" ? config_.ratio : 0;
  }

  std::string config_yaml() const override { return dump_config(config_); }

  std::map<std::string, std::string> idle_parameters() const override {
    std::map<std::string, std::string> idle;
    if (!config_.single_layer)
      idle["pooling_layer.layer_fusion_k_prj.bias"] = "shifts every layer's score alike before a softmax";
    if (config_.source_mass == "learned") {
      idle["pooling_layer.source_mass.ln.bias"] = "shifts every token's score alike before a softmax";
      idle["pooling_layer.source_mass.mass_prj.bias"] = "shifts every token's score alike before a softmax";
    }
    return idle;
  }

  Compressed compress(Context& context, const StepKey& key, const State&) override {
    Compressed result;
    if (config_.map_reduce_segment == 0) {
      result = compress_spans(context, spans_of(context), context.batch(), key);
    } else {
      std::vector<GridSpan> spans;
      Context pieces(context.backbone(), cut(context, spans), config_.map_reduce_segment);
      result = compress_spans(pieces, spans, context.batch(), key);
    }
    if (ratio() > 0) check_budget(result.memory, context.lengths(), ratio());
    return result;
  }

 private:
  int64_t states() const { return (config_.layers > 0 ? config_.layers : setup_.backbone.num_layers) + 1; }

  void check() const {
    const int64_t all = setup_.backbone.num_layers;
    CTXC_CHECK(config_.layers <= all, ErrorKind::kUsage, "0 reads all of them",
               "compressor.layers: more than the backbone has (found {}, expected at most {})",
               config_.layers, all);
    CTXC_CHECK(
        !config_.single_layer || (*config_.single_layer >= -states() && *config_.single_layer < states()),
        ErrorKind::kUsage, "hidden state 0 is the embedding, -1 the last",
        "compressor.single_layer: no such hidden state (found {}, expected {} to {})", *config_.single_layer,
        -states(), states() - 1);
    CTXC_CHECK(config_.init == "paper" || config_.projector_depth > 0, ErrorKind::kUsage,
               "set compressor.projector_depth to 1 or more",
               "compressor.init: residual needs a projector (found projector_depth 0)");
  }

  std::vector<int64_t> read_states() const {
    if (config_.single_layer) return {(*config_.single_layer + states()) % states()};
    std::vector<int64_t> all(states());
    for (int64_t i = 0; i < states(); ++i) all[i] = i;
    return all;
  }

  /// One grid a row; `padded` puts the row's padding in front.
  std::vector<GridSpan> spans_of(const Context& context) const {
    std::vector<GridSpan> spans;
    for (int64_t row = 0; row < context.batch(); ++row) {
      const int64_t length = context.lengths()[row];
      spans.push_back({row, context.offsets()[row], length,
                       config_.grid == "padded" ? context.padded_length() - length : 0});
    }
    return spans;
  }

  /// Map-reduce: the pieces with text, and a grid for every piece. A padded row is cut by columns, text
  /// first.
  std::vector<Tokens> cut(const Context& context, std::vector<GridSpan>& spans) const {
    const int64_t size = config_.map_reduce_segment;
    const Tensor ids_P = context.ids_P().to(at::kCPU, at::kInt).contiguous();
    const TokenId* ids = ids_P.const_data_ptr<TokenId>();
    std::vector<Tokens> pieces;
    for (int64_t row = 0; row < context.batch(); ++row) {
      const int64_t length = context.lengths()[row], offset = context.offsets()[row];
      const int64_t end = config_.grid == "padded" ? context.padded_length() : length;
      for (int64_t first = 0; first < end; first += size) {
        const int64_t positions = std::min(size, end - first);
        const int64_t tokens = std::clamp<int64_t>(length - first, 0, positions);
        spans.push_back({row, offset + std::min(first, length), tokens, positions - tokens});
        if (tokens > 0) pieces.emplace_back(ids + offset + first, ids + offset + first + tokens);
      }
    }
    return pieces;
  }

  DepthResult fuse(Context& context) const {
    const std::vector<Tensor> hidden_PD = context.hidden(read_states(), config_.layers);
    if (!config_.single_layer) return fuse_depth(hidden_PD, pooling_->depth, config_.gate_temperature);
    const Tensor fused_PD = linear(hidden_PD[0].to(at::kFloat), *pooling_->layer_fusion_prj).to(at::kFloat);
    Tensor weights_PS = at::zeros({fused_PD.size(0), states()}, fused_PD.options());
    weights_PS.select(1, read_states()[0]).fill_(1);
    return {fused_PD, weights_PS};
  }

  /// What `init: residual` adds: mean or last input embedding of each run, [N*K, D].
  Tensor run_embeddings(const Context& context, const WindowGrid& grid) const {
    const Tensor embed_PD = context.embed().to(at::kFloat);
    if (config_.residual_source == "mean") return run_means(embed_PD, grid);
    const Tensor order_P = at::arange(context.tokens(), grid.slot_P.options());
    const Tensor last = at::zeros({grid.count_NK.numel()}, grid.slot_P.options())
                            .scatter_reduce(0, grid.slot_P, order_P, "amax", /*include_self=*/true);
    return embed_PD.index_select(0, last);
  }

  Compressed compress_spans(Context& context, const std::vector<GridSpan>& spans, int64_t batch,
                            const StepKey& key) {
    const DepthResult depth = fuse(context);
    const WindowGrid grid(spans, batch, context.tokens(), shape_, recording_, depth.fused_PD.device());
    const WidthResult width = transport_width(
        depth.fused_PD, grid, pooling_->width,
        {config_.sinkhorn_iterations, config_.epsilon, config_.source_floor, config_.source_temperature});
    Tensor slots_ND = projector_->forward(width.slots_NKD.flatten(0, 1)).to(at::kFloat);
    if (config_.init == "residual")
      slots_ND = slots_ND + run_embeddings(context, grid) * grid.count_NK.gt(0).view({-1, 1});

    Compressed result;
    Memory& memory = result.memory;
    memory.slots_BKD = grid.spread(slots_ND.view_as(width.slots_NKD)).flatten(1, 2);
    memory.mask_BK = grid.spread(grid.count_NK.gt(0)).flatten(1, 2);
    if (recording_) record_all(context, spans, grid, depth, width, memory);
    if (config_.grid == "text") trim(memory);
    memory.slots_BKD = memory.slots_BKD.to(context.backbone().compute_dtype());
    place(memory, key);
    return result;
  }

  /// Without padding in the grid, columns behind the longest row hold nothing.
  static void trim(Memory& memory) {
    const Tensor used_K = memory.mask_BK.any(0).nonzero();
    const int64_t columns = used_K.size(0) == 0 ? 0 : used_K[-1].item<int64_t>() + 1;
    memory.slots_BKD = memory.slots_BKD.slice(1, 0, columns);
    memory.mask_BK = memory.mask_BK.slice(1, 0, columns);
  }

  void place(Memory& memory, const StepKey& key) const {
    const int64_t head = static_cast<int64_t>(setup_.head_ids.size());
    memory.head_ids_BP = at::tensor(at::ArrayRef<int64_t>(setup_.head_ids), at::kLong)
                             .to(memory.mask_BK.device())
                             .expand({memory.batch(), head});
    if (key.training && config_.positions == "column")
      number_by_column(memory, head);
    else
      number_densely(memory, head);
  }

  /// Tensors of the padded layout (see interface.md section 4); packed rows go where their span puts them.
  void record_all(const Context& context, const std::vector<GridSpan>& spans, const WindowGrid& grid,
                  const DepthResult& depth, const WidthResult& width, const Memory& memory) {
    std::vector<int64_t> end(grid.batch, 0);
    std::vector<int64_t> place_P(context.tokens());
    int64_t columns = 0;
    for (const GridSpan& span : spans) columns = std::max(columns, end[span.row] += span.positions());
    std::fill(end.begin(), end.end(), 0);
    for (const GridSpan& span : spans) {
      for (int64_t i = 0; i < span.length; ++i)
        place_P[span.offset + i] = span.row * columns + end[span.row] + span.lead + i;
      end[span.row] += span.positions();
    }
    const Tensor index_P = at::tensor(place_P, at::kLong).to(depth.fused_PD.device());
    auto by_column = [&](const Tensor& packed) {
      return at::zeros({grid.batch * columns, packed.size(1)}, packed.options())
          .index_copy(0, index_P, packed.detach())
          .view({grid.batch, columns, packed.size(1)});
    };
    auto by_row = [&](const Tensor& windows) { return grid.spread(windows.detach()); };
    recorded_ = {{"fused", by_column(depth.fused_PD)},
                 {"layer_weights", by_column(depth.weights_PS)},
                 {"cost", by_row(width.cost_NWK).flatten(0, 1)},
                 {"a", by_row(width.a_NW).flatten(0, 1)},
                 {"b", by_row(width.b_NK).flatten(0, 1)},
                 {"plan", by_row(width.plan_NWK)},
                 {"slots_raw", by_row(width.slots_NKD).flatten(1, 2)},
                 {"window_tokens", by_row(window_tokens(grid, context.tokens())) - 1},
                 {"slots", memory.slots_BKD.detach()},
                 {"slots_mask", memory.mask_BK.to(at::kLong)}};
  }

  /// 1 + packed index of each window position, 0 where there is none.
  static Tensor window_tokens(const WindowGrid& grid, int64_t packed) {
    return (grid.token_NW + 1).masked_fill(grid.token_NW.eq(packed), 0);
  }

  Config config_;
  CompressorSetup setup_;
  WindowShape shape_;
  std::shared_ptr<Pooling> pooling_;
  std::shared_ptr<Projector> projector_;
};
CTXC_REGISTER_COMPRESSOR("comprexit", Comprexit,
                         "transmission of frozen hidden states by depth gate and transport plan");

}  // namespace
}  // namespace ctxc
