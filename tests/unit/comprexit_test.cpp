// Properties of ComprExIT that no golden tensor shows.
#include "model/blocks/depth_fusion.h"
#include "model/blocks/window_grid.h"
#include "model/compressor.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

constexpr const char* kSmall =
    "{name: comprexit, ratio: 4, window: 16, gate_width: 8, metric_width: 6, sinkhorn_iterations: 8";

LlamaConfig llama() {
  LlamaConfig config;
  config.vocab_size = 64;
  config.hidden_size = 32;
  config.num_layers = 3;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.intermediate_size = 48;
  config.max_position = 512;
  config.tie_word_embeddings = true;
  config.initializer_range = 0.3;
  return config;
}

std::shared_ptr<Backbone> backbone() {
  static const auto shared = Backbone::random(llama(), 3);
  return shared;
}

std::shared_ptr<Compressor> method(const std::string& more = "", const LlamaConfig& config = llama()) {
  return make_compressor(Yaml::parse(kSmall + more + "}", "test"),
                         {.backbone = config, .head_ids = {1}, .seed = 5});
}

Tokens text(int64_t length, uint64_t index) {
  CounterRng rng(9, "text", 0, index);
  Tokens tokens;
  for (int64_t i = 0; i < length; ++i) tokens.push_back(static_cast<TokenId>(rng.below(64)));
  return tokens;
}

Memory compress(Compressor& compressor, const std::vector<Tokens>& contexts, int64_t padded_length = 0,
                bool training = true) {
  Context context(*backbone(), contexts, padded_length);
  return compressor.compress(context, {.seed = 0, .step = 0, .micro = 0, .training = training}).memory;
}

/// The real slots of a row.
Tensor real_slots(const Memory& memory, int64_t row) {
  return memory.slots_BKD[row].index_select(0, memory.mask_BK[row].nonzero().flatten()).detach();
}

double difference(const Tensor& x, const Tensor& y) {
  return x.sizes() == y.sizes() ? (x - y).abs().max().item<double>() : 1e9;
}

TEST(Comprexit, PaddingAndNeighboursChangeNothing) {
  const auto compressor = method();
  const std::vector<Tokens> contexts = {text(37, 1), text(5, 2), text(16, 3)};
  const Memory together = compress(*compressor, contexts, 64);
  const Memory reversed = compress(*compressor, {contexts[2], contexts[1], contexts[0]});
  for (int64_t row = 0; row < 3; ++row) {
    const Memory alone = compress(*compressor, {contexts[row]});
    EXPECT_LT(difference(real_slots(together, row), real_slots(alone, 0)), 1e-6);
    EXPECT_LT(difference(real_slots(together, row), real_slots(reversed, 2 - row)), 1e-6);
  }
}

TEST(Comprexit, PaddedGridMovesWithThePadding) {
  const auto compressor = method(", grid: padded");
  const Tokens context = text(37, 1);
  const Memory narrow = compress(*compressor, {context}, 37), wide = compress(*compressor, {context}, 48);
  EXPECT_EQ(narrow.slots(), 12);
  EXPECT_EQ(wide.slots(), 12);
  EXPECT_GT(difference(real_slots(narrow, 0), real_slots(wide, 0)), 1e-4);
}

TEST(Comprexit, WindowsWithoutTextAreLeftOut) {
  const auto compressor = method(", grid: padded, positions: column");
  const std::vector<Tokens> contexts = {text(48, 1), text(7, 2)};
  const Memory lean = compress(*compressor, contexts, 48);
  compressor->record(true);
  const Memory full = compress(*compressor, contexts, 48);
  EXPECT_TRUE(at::equal(lean.mask_BK, full.mask_BK));
  EXPECT_TRUE(at::equal(lean.position_BK, full.position_BK));
  for (int64_t row = 0; row < 2; ++row)
    EXPECT_LT(difference(real_slots(lean, row), real_slots(full, row)), 1e-6);
  EXPECT_EQ(lean.slots_BKD[1].slice(0, 0, 8).abs().max().item<double>(), 0);
}

TEST(Comprexit, PositionsAreDenseOutsideOfTrainingByColumn) {
  const auto compressor = method(", grid: padded, positions: column");
  const Memory training = compress(*compressor, {text(7, 2)}, 32, true);
  const Memory reading = compress(*compressor, {text(7, 2)}, 32, false);
  EXPECT_EQ(training.next_position_B[0].item<int64_t>(), 9);  // 1 head + 8 columns
  EXPECT_EQ(reading.next_position_B[0].item<int64_t>(), 3);   // 1 head + 2 slots
  EXPECT_EQ(reading.position_BK[0][7].item<int64_t>(), 2);
}

TEST(Comprexit, CountsItsSlots) {
  for (const char* more : {"", ", map_reduce_segment: 20", ", window: 14, ratio: 4"}) {
    const std::string base =
        std::string(more).find("window") == std::string::npos
            ? std::string(kSmall) + more + "}"
            : "{name: comprexit, gate_width: 8, metric_width: 6" + std::string(more) + "}";
    const auto compressor =
        make_compressor(Yaml::parse(base, "test"), {.backbone = llama(), .head_ids = {}, .seed = 5});
    for (int64_t length : {1, 3, 4, 13, 14, 15, 16, 17, 31, 40, 41})
      EXPECT_EQ(compress(*compressor, {text(length, 4)}).mask_BK.sum().item<int64_t>(),
                compressor->slots_for(length))
          << base << " " << length;
  }
}

TEST(Comprexit, MapReducePiecesDoNotSeeEachOther) {
  const auto compressor = method(", map_reduce_segment: 16");
  const Tokens context = text(40, 6);
  const Memory whole = compress(*compressor, {context});
  const auto piece = method();
  const Memory second = compress(*piece, {Tokens(context.begin() + 16, context.begin() + 32)});
  EXPECT_LT(difference(real_slots(whole, 0).slice(0, 4, 8), real_slots(second, 0)), 1e-6);
}

TEST(Comprexit, RunsFollowThePeersCut) {
  const WindowShape shape{50, 8};
  EXPECT_EQ(shape.runs(), 7);
  std::vector<int64_t> lengths(7, 0);
  for (int64_t i = 0; i < 50; ++i) ++lengths[shape.run_of(i)];
  EXPECT_EQ(lengths, (std::vector<int64_t>{8, 7, 7, 7, 7, 7, 7}));
  EXPECT_EQ(shape.slots_for(0), 0);
  EXPECT_EQ(shape.slots_for(8), 1);
  EXPECT_EQ(shape.slots_for(9), 2);
  EXPECT_EQ(shape.slots_for(101), 15);
}

TEST(Comprexit, ResidualInitStartsAsEmbeddings) {
  const Tokens context = text(16, 7);
  const Tensor embeds = backbone()->embed(at::tensor(std::vector<int64_t>(context.begin(), context.end())));
  const Tensor mean = embeds.view({4, 4, 32}).mean(1), last = embeds.view({4, 4, 32}).select(1, 3);
  for (const auto& [source, expected] : {std::pair{"mean", mean}, std::pair{"last", last}}) {
    const auto compressor = method(std::string(", init: residual, residual_source: ") + source);
    const Tensor slots = real_slots(compress(*compressor, {context}), 0);
    EXPECT_LT(difference(slots, expected), 0.05 * expected.abs().max().item<double>());
    EXPECT_GT(difference(slots, expected), 0);
  }
}

TEST(Comprexit, InitialValuesDependOnSeedAndNameAlone) {
  const auto one = method()->named_parameters(), two = method(", single_layer: -1")->named_parameters();
  EXPECT_TRUE(at::equal(one["pooling_layer.value_prj.weight"], two["pooling_layer.value_prj.weight"]));
  EXPECT_FALSE(
      at::equal(one["pooling_layer.value_prj.weight"], one["pooling_layer.layer_fusion_v_prj.weight"]));
  EXPECT_FALSE(two.contains("pooling_layer.layer_fusion_k_prj.bias"));
  const double bound = 1 / std::sqrt(32.0);
  EXPECT_LE(one["pooling_layer.metric_prj.weight"].abs().max().item<double>(), bound);
  EXPECT_GT(one["pooling_layer.metric_prj.weight"].abs().max().item<double>(), 0.9 * bound);
}

TEST(Comprexit, ReadsOnlyTheLayersItNeeds) {
  EXPECT_EQ(method(", layers: 2")->needs().hidden, (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(method(", layers: 2")->needs().layers, 2);
  EXPECT_EQ(method(", single_layer: -1")->needs().hidden, (std::vector<int64_t>{3}));
}

TEST(Comprexit, RefusesWhatCannotBe) {
  using testing::expect_error;
  expect_error(ErrorKind::kUsage, "compressor.layers", [] { method(", layers: 4"); });
  expect_error(ErrorKind::kUsage, "compressor.single_layer", [] { method(", single_layer: 4"); });
  expect_error(ErrorKind::kUsage, "projector_depth 0",
               [] { method(", init: residual, projector_depth: 0"); });
  expect_error(ErrorKind::kUsage, "windw", [] { method(", windw: 4"); });
  expect_error(ErrorKind::kUsage, "grid", [] { method(", grid: diagonal"); });
}

/// The fused kernels against plain autograd, which runs where the states need a gradient themselves.
TEST(DepthFusion, FusedPassesEqualPlainOnes) {
  std::vector<Tensor> constant, differentiable;
  for (uint64_t l = 0; l < 3; ++l) {
    constant.push_back(draw({300, 7}, {Draw::Kind::kNormal, 1}, l, "state"));
    differentiable.push_back(constant.back().clone().requires_grad_());
  }
  const Tensor cotangent = draw({300, 7}, {Draw::Kind::kNormal, 1}, 8, "cotangent");
  for (int64_t rows : {int64_t{1}, int64_t{300}}) {
    Tensor gradients[2], values[2];
    for (int plain = 0; plain < 2; ++plain) {
      Tensor w = draw({rows, 3}, {Draw::Kind::kNormal, 1}, 9, "weights").requires_grad_();
      values[plain] = weighted_states(w, plain ? differentiable : constant);
      (values[plain] * cotangent).sum().backward();
      gradients[plain] = w.grad();
    }
    EXPECT_LT(difference(values[0].detach(), values[1].detach()), 1e-5);
    EXPECT_LT(difference(gradients[0], gradients[1]), 1e-3);
  }
  Tensor gradients[2], values[2];
  const Tensor pull = draw({300, 3}, {Draw::Kind::kNormal, 1}, 10, "pull");
  for (int plain = 0; plain < 2; ++plain) {
    Tensor g = cotangent.clone().requires_grad_();
    values[plain] = state_products(g, plain ? differentiable : constant);
    (values[plain] * pull).sum().backward();
    gradients[plain] = g.grad();
  }
  EXPECT_LT(difference(values[0].detach(), values[1].detach()), 1e-4);
  EXPECT_LT(difference(gradients[0], gradients[1]), 1e-4);
}

}  // namespace
}  // namespace ctxc
