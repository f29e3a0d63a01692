// Properties of the progressive compressor as a whole (progressive.md section 9).
#include <bit>
#include <cmath>

#include "model/blocks/layer_mix.h"
#include "model/blocks/scale_path.h"
#include "model/blocks/slot_head.h"
#include "model/budget.h"
#include "model/compressor.h"
#include "model/objective.h"
#include "small_method.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::random_tokens;
using testing::slots_of;
using testing::small_backbone;
using testing::worst;

constexpr const char* kSmall =
    "{name: progressive, ratio: 4, chunk: 16, width: 32, heads: 2, window: 16, state: 4, random_slices: 1, "
    "random_keep: 0}";

std::shared_ptr<Compressor> method(const std::string& more = "") {
  return testing::small_method(kSmall, more);
}
Compressed compress(Compressor& compressor, const std::vector<Tokens>& contexts, bool training = false,
                    const State& in = {}, int64_t step = 0, int64_t padded = 0) {
  Context context(*small_backbone(), contexts, padded);
  return compressor.compress(context, {.seed = 1, .step = step, .micro = 0, .training = training}, in);
}
Tokens part(const Tokens& tokens, int64_t first, int64_t last) {
  return {tokens.begin() + first,
          tokens.begin() + std::min<int64_t>(last, static_cast<int64_t>(tokens.size()))};
}

const std::vector<std::string>& variants() {
  static const std::vector<std::string> all = {"",
                                               ", reduce: window",
                                               ", reduce: global",
                                               ", buffer: merge",
                                               ", buffer: none",
                                               ", buffer: none, slot_positions: spread, sink: false",
                                               ", keep: 0",
                                               ", keep: 2",
                                               ", slots: log",
                                               ", slots: log, buffer: none",
                                               ", init: residual",
                                               ", init: residual, slots: log",
                                               ", init: residual, reduce: global, keep: 2",
                                               ", passes: 2",
                                               ", passes: 2, reduce: window",
                                               ", pos: alibi, pool: mean_linear",
                                               ", pos: none, pool: mean",
                                               ", ratio: 16, state: 32",
                                               ", ratio: 3, chunk: 12",
                                               ", ratio: 2, layers: embedding, nce: false, recon: false"};
  return all;
}

class ProgressiveVariants : public ::testing::TestWithParam<std::string> {};

TEST_P(ProgressiveVariants, ReadsNoMoreThanTheRatioAllowsForEveryNumberOfSlices) {
  const at::NoGradGuard no_grad;
  const auto compressor = method(GetParam());
  // 1 to 20 slices, the last one of a few tokens or of many, in one batch.
  std::vector<Tokens> contexts;
  const int64_t chunk = compressor->stream_tokens() > 0 ? compressor->stream_tokens() : 16;
  for (int64_t slices = 1; slices <= 20; ++slices)
    for (const int64_t rest : {1 + slices % 5, chunk - slices % 3})
      contexts.push_back(random_tokens((slices - 1) * chunk + rest, 1));
  const Memory memory = compress(*compressor, contexts).memory;
  for (size_t row = 0; row < contexts.size(); ++row) {
    const int64_t tokens = static_cast<int64_t>(contexts[row].size());
    const int64_t read = memory.mask_BK[static_cast<int64_t>(row)].sum().item<int64_t>();
    EXPECT_EQ(read, compressor->slots_for(tokens)) << tokens;
    EXPECT_LE(read, (tokens + compressor->ratio() - 1) / compressor->ratio()) << tokens;
    EXPECT_GT(read, 0) << tokens;
  }
}

TEST_P(ProgressiveVariants, NeitherPaddingNorCompanyNorRepetitionChangeARow) {
  const at::NoGradGuard no_grad;
  const auto compressor = method(GetParam());
  const std::vector<Tokens> contexts = {random_tokens(37, 1), random_tokens(5, 2), random_tokens(70, 3), {}};
  const Memory together = compress(*compressor, contexts).memory;
  const Memory padded = compress(*compressor, contexts, false, {}, 0, 128).memory;
  for (int64_t row = 0; row < 4; ++row) {
    const Memory alone = compress(*compressor, {contexts[static_cast<size_t>(row)]}).memory;
    EXPECT_LT(worst(slots_of(together, row), slots_of(alone)), 1e-4) << row;
    EXPECT_TRUE(at::equal(slots_of(together, row), slots_of(padded, row))) << row;
  }
}

TEST_P(ProgressiveVariants, AStreamThatWasSavedEqualsOneCall) {
  const at::NoGradGuard no_grad;
  const auto compressor = method(GetParam());
  const int64_t chunk = compressor->stream_tokens();
  const Tokens text = random_tokens(101, 4);
  const Compressed whole = compress(*compressor, {text});
  if (chunk == 0) {
    EXPECT_TRUE(whole.state.empty());
    const auto streaming = method();
    const State state = compress(*streaming, {part(text, 0, 16)}).state;
    expect_error(ErrorKind::kUsage, "passes", [&] { compress(*compressor, {text}, false, state); });
    return;
  }
  for (const int64_t slices : {1, 3}) {
    State state;
    Memory memory;
    for (int64_t first = 0; first < 101; first += slices * chunk) {
      Compressed step = compress(*compressor, {part(text, first, first + slices * chunk)}, false, state);
      memory = step.memory;
      state.clear();
      for (const auto& [name, tensor] : step.state) state[name] = tensor.clone();  // as a file would give it
    }
    EXPECT_LT(worst(slots_of(memory), slots_of(whole.memory)), 1e-5) << slices << " slices a call";
    EXPECT_TRUE(at::equal(memory.position_BK, whole.memory.position_BK) ||
                GetParam().find("spread") != std::string::npos);
    EXPECT_EQ(state.at("tokens").item<int64_t>(), 101);
  }
}

TEST_P(ProgressiveVariants, TermsAreFiniteAndTrain) {
  const auto compressor = method(GetParam());
  Context context(*small_backbone(), {random_tokens(60, 1), random_tokens(33, 2), random_tokens(64, 3)});
  const Compressed result =
      compressor->compress(context, {.seed = 1, .step = 0, .micro = 0, .training = true});
  Tensor sum = result.memory.slots_BKD.square().mean();
  for (const std::string name : {"recon", "nce"})
    if (result.aux.count(name)) sum = sum + result.aux.at(name);
  for (const auto& [name, value] : result.aux) EXPECT_TRUE(value.isfinite().all().item<bool>()) << name;
  sum.backward();
  for (const auto& item : compressor->named_parameters()) {
    const Tensor grad = item.value().grad();
    EXPECT_TRUE(!grad.defined() || grad.isfinite().all().item<bool>()) << item.key();
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, ProgressiveVariants, ::testing::ValuesIn(variants()));

TEST(ProgressiveMemory, OneSliceReadsNoBufferAndSeveralPayForIt) {
  const at::NoGradGuard no_grad;
  const auto compressor = method();
  const Tokens one = random_tokens(16, 1), two = random_tokens(32, 1);
  const Tensor short_before = slots_of(compress(*compressor, {one}).memory),
               long_before = slots_of(compress(*compressor, {two}).memory);
  compressor->named_parameters()["buffer_out.weight"].mul_(2);
  EXPECT_TRUE(at::equal(slots_of(compress(*compressor, {one}).memory), short_before));
  const Tensor long_after = slots_of(compress(*compressor, {two}).memory);
  ASSERT_EQ(long_after.size(0), 8);  // two of the buffer, and four of the oldest slots merged to two
  EXPECT_GT(worst(long_after.slice(0, 0, 2), long_before.slice(0, 0, 2)), 1e-3);
  EXPECT_TRUE(at::equal(long_after.slice(0, 2), long_before.slice(0, 2)));
}

TEST(ProgressiveMemory, AResidualIsTheFirstEmbeddingOfItsCluster) {
  const at::NoGradGuard no_grad;
  const Tokens text = random_tokens(14, 1);
  const Tensor embeds = small_backbone()->embed(testing::ids_of(text));
  const auto unit = [](const Tensor& rows) { return rows / rows.norm(2, {1}, true); };
  const auto slots = [&](const char* more) {
    return slots_of(compress(*method(std::string(", init: residual") + more), {text}).memory);
  };
  EXPECT_LT(worst(unit(slots(", reduce: window")), unit(embeds.slice(0, 0, 14, 4))), 1e-5);
  // Clusters begin at rising tokens, the first one at the first.
  const Tensor likeness = at::matmul(unit(slots("")), unit(embeds).t());
  const auto [closest, token] = likeness.max(1);
  EXPECT_GT(closest.min().item<double>(), 0.9999);
  EXPECT_EQ(token[0].item<int64_t>(), 0);
  EXPECT_GT((token.slice(0, 1) - token.slice(0, 0, -1)).min().item<int64_t>(), 0);
}

TEST(ProgressiveMemory, TheBufferAloneDoesNotDependOnTheSlotHead) {
  const at::NoGradGuard no_grad;
  const auto compressor = method(", keep: 0");
  EXPECT_FALSE(compressor->named_parameters().contains("out.weight"));
  const Tokens text = random_tokens(200, 1);
  EXPECT_EQ(compress(*compressor, {text}).memory.slots(), 4);
  EXPECT_EQ(compress(*compressor, {part(text, 0, 9)}).memory.slots(), 3);
}

TEST(ProgressiveMemory, AThousandSlicesTakeConstantMemory) {
  const at::NoGradGuard no_grad;
  const auto compressor = method(", keep: 0, chunk: 4, ratio: 2, recon: false, nce: false");
  State state;
  int64_t bytes = 0;
  for (int64_t c = 0; c < 1000; ++c) {
    state = compress(*compressor, {random_tokens(4, static_cast<uint64_t>(c))}, false, state).state;
    int64_t now = 0;
    for (const auto& [name, tensor] : state) now += static_cast<int64_t>(tensor.nbytes());
    ASSERT_EQ(now, c > 0 ? bytes : now) << c;
    bytes = now;
  }
  const double rms = state.at("buffer").square().mean().sqrt().item<double>();
  EXPECT_GT(rms, 0.5);
  EXPECT_LT(rms, 2);
}

TEST(ProgressiveMemory, LogarithmicSlotsStayWithinTheirBoundAndInOrder) {
  const at::NoGradGuard no_grad;
  const auto compressor =
      method(", slots: log, buffer: none, chunk: 4, ratio: 2, layers: embedding, recon: false, nce: false");
  State state;
  for (int64_t n = 1; n <= 1000; ++n) {
    state = compress(*compressor, {random_tokens(4, static_cast<uint64_t>(n))}, false, state).state;
    const int64_t stored = state.at("latents").size(0);
    ASSERT_LE(static_cast<double>(stored), 2 * (1 + std::log2(static_cast<double>(n)))) << n;
    ASSERT_EQ(stored, 2 * std::popcount(static_cast<uint64_t>(n)));
    ASSERT_EQ(state.at("sizes").sum().item<double>(), static_cast<double>(4 * n));
    const Tensor at = state.at("positions");
    ASSERT_TRUE((at.slice(0, 1) > at.slice(0, 0, stored - 1)).all().item<bool>()) << n;
  }
}

TEST(ProgressiveMemory, RefusesAStateItCannotContinue) {
  const auto compressor = method();
  const Tokens text = random_tokens(40, 1);
  const State inside = compress(*compressor, {part(text, 0, 20)}).state;
  expect_error(ErrorKind::kUsage, "ended inside a slice",
               [&] { compress(*compressor, {text}, false, inside); });
  const State whole = compress(*compressor, {part(text, 0, 16)}).state;
  expect_error(ErrorKind::kUsage, "another batch", [&] {
    compress(*compressor, {text, text}, false, whole);
  });
  expect_error(ErrorKind::kUsage, "holds no", [&] {
    compress(*compressor, {text}, false, {{"something", at::zeros({1})}});
  });
}

/// Which slices of a text vectors [first, last) of those that the decoder reads reach (from the end where
/// negative or 0). Every token stands once, so that the gradient of its embedding tells the slice.
std::vector<int64_t> reached(const std::string& keys, int64_t slices, int64_t first, int64_t last) {
  constexpr int64_t kSlice = 12;
  const auto compressor = method(", ratio: 3, chunk: 12, layers: embedding, nce: false, recon: false" + keys);
  Tokens text;
  for (int64_t i = 0; i < kSlice * slices; ++i) text.push_back(static_cast<TokenId>(3 + i));
  const auto trained = Backbone::random(testing::tiny_llama(), 3, {.trainable = true});
  Context context(*trained, {text});
  const Tensor slots_KD =
      compressor->compress(context, {.seed = 1, .step = 0, .micro = 0, .training = true}).memory.slots_BKD[0];
  const int64_t count = slots_KD.size(0);
  slots_KD.slice(0, first < 0 ? count + first : first, last <= 0 ? count + last : last)
      .square()
      .sum()
      .backward();
  const Tensor grad_V = trained->weights().at("model.embed_tokens.weight").grad().abs().sum(1);
  std::vector<int64_t> found;
  for (int64_t i = 0; i < slices; ++i)
    if (grad_V.slice(0, 3 + i * kSlice, 3 + (i + 1) * kSlice).max().item<double>() > 0) found.push_back(i);
  return found;
}

/// Back-propagation is cut into blocks of tbptt_chunks slices.
TEST(ProgressiveTraining, GradientsRunBackOverBlocksOfSlicesThroughTheBuffer) {
  for (int64_t c = 1; c <= 5; ++c) {
    const std::vector<int64_t> block = c % 2 == 1 ? std::vector{c - 1, c} : std::vector{c};
    EXPECT_EQ(reached(", keep: 1", c + 1, -4, 0), block) << "slots of slice " << c;
  }
  EXPECT_EQ(reached(", keep: 1, tbptt_chunks: 3", 6, -4, 0), (std::vector<int64_t>{3, 4, 5}));
}

/// The second pass begins with the buffer of the first, and trains what made it.
TEST(ProgressiveTraining, GradientsRunBackFromPassToPass) {
  // Three slices: 3 vectors of the buffer, 3 that 6 slots were merged to; the first two are of slice 0.
  EXPECT_EQ(reached(", passes: 2, state: 3", 3, 3, 5), (std::vector<int64_t>{0, 2}));
  // One slice: nothing but the second pass reads what the buffer learnt in the first.
  const auto compressor = method(", passes: 2, nce: false, recon: false");
  compress(*compressor, {random_tokens(16, 1)}, true).memory.slots_BKD.square().sum().backward();
  const Tensor grad = compressor->named_parameters()["buffer.gate.weight"].grad();
  ASSERT_TRUE(grad.defined());
  EXPECT_GT(grad.abs().max().item<double>(), 0);
}

TEST(ProgressiveTraining, StepsDrawTheirSlicesAndSometimesTheBufferAlone) {
  const at::NoGradGuard no_grad;
  const auto compressor = method(", chunk: 64, random_slices: 8, random_keep: 0.25, state: 2");
  std::map<int64_t, int> counts;
  const Tokens text = random_tokens(64, 1);
  for (int64_t step = 0; step < 200; ++step)
    ++counts[compress(*compressor, {text}, true, {}, step).memory.mask_BK.sum().item<int64_t>()];
  EXPECT_EQ(counts.size(), 2U);  // all of the budget, or the buffer alone
  EXPECT_NEAR(counts[2], 50, 20);
  EXPECT_EQ(compress(*compressor, {text}, false).memory.slots(), 16);
}

TEST(ProgressivePositions, OnlyDifferencesMatterAndOrderDoes) {
  const at::NoGradGuard no_grad;
  const Tokens text = random_tokens(32, 1);
  Tokens swapped = text;
  std::swap(swapped[0], swapped[1]);
  ASSERT_NE(text[0], text[1]);
  const auto change = [&](const std::string& more) {
    const auto compressor = method(", chunk: 32, layers: embedding, window: 64, reduce: window" + more);
    const Tensor a = slots_of(compress(*compressor, {text}).memory),
                 b = slots_of(compress(*compressor, {swapped}).memory);
    return worst(a, b) / a.abs().max().item<double>();
  };
  EXPECT_GT(change(""), 1e-2);
  EXPECT_GT(change(", pos: none"), 1e-2) << "the ordered merge binds without a position code";
  EXPECT_LT(change(", pos: none, pool: mean, buffer: none"), 1e-5) << "the binding bottleneck";
}

TEST(ProgressiveQueue, IsTrainingStateThatLoadsBitwise) {
  const auto original = method(), copy = method();
  const std::vector<Tokens> contexts = {random_tokens(60, 1), random_tokens(33, 2), random_tokens(64, 3)};
  compress(*original, contexts, true);
  {
    const at::NoGradGuard no_grad;
    const auto source = original->named_buffers();
    ASSERT_TRUE(source.contains("queue.a"));
    for (auto& item : copy->named_buffers()) item.value().copy_(source[item.key()]);
  }
  const Tensor a = compress(*original, contexts, true, {}, 1).aux.at("nce");
  const Tensor b = compress(*copy, contexts, true, {}, 1).aux.at("nce");
  EXPECT_TRUE(at::equal(a, b));
  EXPECT_FALSE(at::equal(a, compress(*method(), contexts, true, {}, 1).aux.at("nce")));
}

TEST(ProgressiveConfig, RefusesWhatCannotWork) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {", ratio: 6, chunk: 12, reduce: window", "compressor.ratio"},
      {", chunk: 18", "compressor.chunk: not a multiple"},
      {", chunk: 1024", "larger than the base's window"},
      {", state: 0", "compressor.state"},
      {", keep: some", "compressor.keep"},
      {", keep: 0, buffer: none", "leaves nothing to read"},
      {", keep: 2, slots: log", "compressor.slots"},
      {", slot_positions: spread", "compressor.slot_positions"},
      {", heads: 5", "compressor.width"},
      {", layers: list", "compressor.layer_list"},
      {", layers: list, layer_list: [9]", "no such hidden state"}};
  for (const auto& [keys, message] : cases) expect_error(ErrorKind::kUsage, message, [&] { method(keys); });
}

/// `buffer: none` of one slice is layer mix, down-sampling and slot head alone, made here from the blocks;
/// and a method with a buffer is the same as soon as the gates to the buffer are shut.
TEST(ProgressiveMemory, WithoutABufferOneSliceIsTheBareCompressor) {
  const at::NoGradGuard no_grad;
  const std::string cut = ", nce: false, recon: false";
  const auto bare = method(", buffer: none" + cut), gated = method(cut);
  for (const int64_t tokens : {16, 11, 1}) {
    Context context(*small_backbone(), {random_tokens(tokens, 1)});
    const std::vector<int64_t> layers = layers_to_read("spread", {}, testing::tiny_llama().num_layers);
    const LayerMix mix(static_cast<int64_t>(layers.size()), 32, 32, 5, "mix");
    const ScaleDown down(
        {.width = 32, .heads = 2, .longest = 16, .ratio = 4, .window = 16, .reads_buffer = false}, 5, "down");
    const auto head = make_slot_head(32, 32, 5, "out");
    const Tensor x = mix.forward(context.hidden(layers, bare->needs().layers)).unsqueeze(0);
    const Places places{at::arange(1 - tokens, 1, at::kFloat).unsqueeze(0), at::ones({1, tokens}, at::kBool),
                        at::ones({1, tokens})};
    const Tensor expected = head->forward(down.forward(x, places, {tokens}, 4, {}).x_BKD, *small_backbone());
    const Memory memory = compress(*bare, {random_tokens(tokens, 1)}).memory;
    EXPECT_LT(worst(slots_of(memory), expected[0]), 1e-6) << tokens;
    const auto with_gate = [&] { return slots_of(compress(*gated, {random_tokens(tokens, 1)}).memory); };
    Tensor gate = gated->named_parameters()["down.level.gate"];
    gate.fill_(-2);
    if (tokens > 4) {
      EXPECT_GT(worst(with_gate(), expected[0]), 1e-4) << tokens;
    }
    gate.fill_(-1e4);
    EXPECT_LT(worst(with_gate(), expected[0]), 1e-6) << tokens;
  }
}

/// A slice says the same wherever it stands in the text: from the embeddings and without a buffer.
TEST(ProgressivePositions, ASliceIsTheSameWhereverItStands) {
  const at::NoGradGuard no_grad;
  const Tokens text = random_tokens(16, 1);
  Tokens later = random_tokens(32, 2);
  later.insert(later.end(), text.begin(), text.end());
  for (const char* pos : {"rope", "alibi"})
    for (const char* reduce : {"cluster", "window", "global"}) {
      const auto compressor = method(fmt::format(
          ", layers: embedding, buffer: none, nce: false, recon: false, pos: {}, reduce: {}", pos, reduce));
      const Tensor alone = slots_of(compress(*compressor, {text}).memory),
                   after = slots_of(compress(*compressor, {later}).memory);
      ASSERT_EQ(after.size(0), 12);
      EXPECT_LT(worst(after.slice(0, 8), alone), 1e-4) << pos << " " << reduce;
    }
}

/// A text backwards: without a position code and with means as pools its slots are those of the text, in the
/// opposite order; with either of them they are others.
TEST(ProgressivePositions, ATextBackwardsIsAnotherTextUnlessNothingBinds) {
  const at::NoGradGuard no_grad;
  const Tokens text = random_tokens(64, 1), backwards(text.rbegin(), text.rend());
  const auto change = [&](const std::string& more) {
    const auto compressor =
        method(", chunk: 64, layers: embedding, window: 64, nce: false, recon: false" + more);
    const Tensor a = slots_of(compress(*compressor, {text}).memory),
                 b = slots_of(compress(*compressor, {backwards}).memory);
    return std::min(worst(a, b), worst(a.flip(0), b)) / a.abs().max().item<double>();
  };
  for (const char* reduce : {", reduce: cluster", ", reduce: window"}) {
    for (const char* bound : {"", ", pos: alibi", ", pos: none"})
      EXPECT_GT(change(std::string(reduce) + bound), 1e-2) << reduce << bound;
    EXPECT_LT(change(std::string(reduce) + ", pos: none, pool: mean"), 1e-5) << reduce;
  }
}

}  // namespace
}  // namespace ctxc
