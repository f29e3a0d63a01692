// Decoding: the fast way (shared prefix, packed prompts, cache, rows that leave) against the slow one.
#include "model/generate.h"

#include <gtest/gtest.h>

#include "model/sampling.h"
#include "throws.h"
#include "tiny_llama.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::ids_of;
using testing::random_tensor;
using testing::random_tokens;
using testing::relative_error;
using testing::tiny_llama;

/// Greedy tokens by a full forward pass over everything for every new token.
Tokens slow_greedy(const Backbone& backbone, const Tensor& prefix_TD, const Tensor& prefix_positions,
                   int64_t next, Tokens text, int64_t count) {
  Tokens found;
  for (int64_t step = 0; step < count; ++step) {
    const Tensor embeds = at::cat({prefix_TD, backbone.embed(ids_of(text))});
    const Tensor positions =
        at::cat({prefix_positions, next + at::arange(static_cast<int64_t>(text.size()), at::kLong)});
    const Tensor hidden =
        backbone.forward_padded(embeds.unsqueeze(0), {}, positions.unsqueeze(0)).hidden[0][0];
    found.push_back(static_cast<TokenId>(backbone.logits(hidden[-1]).argmax().item<int64_t>()));
    text.push_back(found.back());
  }
  return found;
}

TEST(Generate, PlainTextsEqualTheSlowWay) {
  const auto backbone = Backbone::random(tiny_llama(), 5);
  const std::vector<Tokens> prompts = {random_tokens(9, 1), random_tokens(1, 2), random_tokens(4, 3)};
  const GenerateResult result = generate(*backbone, prompts, {.max_new_tokens = 6});
  ASSERT_EQ(result.tokens.size(), 3u);
  for (size_t i = 0; i < prompts.size(); ++i)
    EXPECT_EQ(result.tokens[i],
              slow_greedy(*backbone, at::zeros({0, 32}), at::zeros({0}, at::kLong), 0, prompts[i], 6))
        << i;
}

/// A head of one token; row 0 has two valid slots of three, row 1 all.
Memory two_rows() {
  Memory memory;
  memory.head_ids_BP = at::ones({2, 1}, at::kLong);
  memory.slots_BKD = random_tensor({2, 3, 32}, 1);
  memory.mask_BK = at::tensor({1, 0, 1, 1, 1, 1}, at::kLong).view({2, 3}).to(at::kBool);
  number_densely(memory, 1);
  return memory;
}

/// [head + valid slots, D] of a row.
Tensor prefix_of(const Backbone& backbone, const Memory& memory, int64_t row) {
  const Tensor valid = memory.mask_BK[row].nonzero().flatten();
  return at::cat({backbone.embed(memory.head_ids_BP[row]), memory.slots_BKD[row].index_select(0, valid)});
}

TEST(Generate, PromptsOfAMemoryEqualTheSlowWay) {
  const auto backbone = Backbone::random(tiny_llama(), 5);
  const Memory memory = two_rows();
  const std::vector<int64_t> rows = {1, 0, 1, 0};
  const std::vector<Tokens> prompts = {random_tokens(3, 1), random_tokens(2, 2), random_tokens(5, 3), {}};
  const GenerateResult result = generate(*backbone, memory, rows, prompts, {.max_new_tokens = 5});
  for (size_t i = 0; i < prompts.size(); ++i) {
    const Tensor prefix = prefix_of(*backbone, memory, rows[i]);
    const Tensor positions = at::arange(prefix.size(0), at::kLong);
    EXPECT_EQ(result.tokens[i], slow_greedy(*backbone, prefix, positions, prefix.size(0), prompts[i], 5))
        << i;
  }
}

/// Mean -log p of `target` after `text` by a full forward pass over everything.
double slow_nll(const Backbone& backbone, const Tensor& prefix_TD, const Tensor& prefix_positions,
                int64_t next, Tokens text, const Tokens& target) {
  const int64_t first = prefix_TD.size(0) + static_cast<int64_t>(text.size()) - 1;
  const auto count = static_cast<int64_t>(target.size());
  text.insert(text.end(), target.begin(), target.end());
  const Tensor embeds = at::cat({prefix_TD, backbone.embed(ids_of(text))});
  const Tensor positions =
      at::cat({prefix_positions, next + at::arange(static_cast<int64_t>(text.size()), at::kLong)});
  const Tensor hidden = backbone.forward_padded(embeds.unsqueeze(0), {}, positions.unsqueeze(0)).hidden[0][0];
  const Tensor log_p = backbone.logits(hidden.narrow(0, first, count)).log_softmax(-1);
  return -log_p.gather(1, ids_of(target).unsqueeze(1)).mean().item<double>();
}

TEST(Generate, TargetsAreScoredBesideAndChangeNothing) {
  const auto backbone = Backbone::random(tiny_llama(), 5);
  const Memory memory = two_rows();
  // Row 0 has one prompt (plain causal attention), row 1 three, one of them empty.
  const std::vector<int64_t> rows = {1, 0, 1, 1};
  const std::vector<Tokens> prompts = {random_tokens(3, 1), random_tokens(2, 2), random_tokens(5, 3), {}};
  const std::vector<Tokens> targets = {random_tokens(4, 6), random_tokens(1, 7), random_tokens(2, 8),
                                       random_tokens(3, 9)};
  const GenerateResult plain = generate(*backbone, memory, rows, prompts, {.max_new_tokens = 5});
  EXPECT_TRUE(plain.nll.empty());
  const GenerateResult result = generate(*backbone, memory, rows, prompts, {.max_new_tokens = 5}, targets);
  EXPECT_EQ(result.tokens, plain.tokens);
  ASSERT_EQ(result.nll.size(), prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    const Tensor prefix = prefix_of(*backbone, memory, rows[i]);
    const Tensor positions = at::arange(prefix.size(0), at::kLong);
    EXPECT_NEAR(result.nll[i], slow_nll(*backbone, prefix, positions, prefix.size(0), prompts[i], targets[i]),
                1e-4)
        << i;
  }
  expect_error(ErrorKind::kInternal, "do not fit (found 4, 4 and 1)",
               [&] { generate(*backbone, memory, rows, prompts, {}, {targets[0]}); });
  expect_error(ErrorKind::kInternal, "a target is empty",
               [&] { generate(*backbone, memory, {0}, {prompts[0]}, {}, {Tokens{}}); });
}

TEST(Generate, KeysOfAMemoryEqualItsTokens) {
  const auto backbone = Backbone::random(tiny_llama(), 5);
  const Tokens context = random_tokens(6, 1), prompt = random_tokens(3, 2);
  Memory memory;
  memory.head_ids_BP = at::zeros({1, 0}, at::kLong);
  memory.mask_BK = at::ones({1, 6}, at::kBool);
  number_densely(memory, 0);
  memory.kv = backbone->forward(testing::packed_text(*backbone, context), {.keep_kv = true}).kv;
  Tokens whole = context;
  whole.insert(whole.end(), prompt.begin(), prompt.end());
  const GenerateResult found =
      generate(*backbone, memory, {0, 0}, {prompt, random_tokens(1, 4)}, {.max_new_tokens = 5});
  EXPECT_EQ(found.tokens[0], generate(*backbone, {whole}, {.max_new_tokens = 5}).tokens[0]);
}

TEST(Generate, RowsThatEndLeaveAndTheOthersDoNotNotice) {
  const auto backbone = Backbone::random(tiny_llama(), 5);
  std::vector<Tokens> prompts;
  for (uint64_t i = 0; i < 6; ++i) prompts.push_back(random_tokens(3 + static_cast<int64_t>(i), i));
  const GenerateResult all = generate(*backbone, prompts, {.max_new_tokens = 8, .want_step_logits = true});
  const std::vector<int64_t> eos = {all.tokens[1][2], all.tokens[4][0]};
  const GenerateResult ended =
      generate(*backbone, prompts, {.max_new_tokens = 8, .eos = eos, .want_step_logits = true});
  bool some_left = false;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const Tokens& plain = all.tokens[i];
    const auto stop =
        std::find_if(plain.begin(), plain.end(), [&](TokenId id) { return id == eos[0] || id == eos[1]; });
    const Tokens expected(plain.begin(), stop == plain.end() ? stop : stop + 1);
    EXPECT_EQ(ended.tokens[i], expected) << i;
    some_left = some_left || expected.size() < plain.size();
    const int64_t steps = static_cast<int64_t>(expected.size());
    EXPECT_LT(relative_error(ended.step_logits_BTV[i].narrow(0, 0, steps),
                             all.step_logits_BTV[i].narrow(0, 0, steps)),
              2e-5);
  }
  EXPECT_TRUE(some_left);
  const Tensor grid = padded_tokens(ended, 77);
  EXPECT_EQ(grid.size(1), ended.steps);
  EXPECT_EQ(grid[4][0].item<int64_t>(), eos[1]);
  ASSERT_GT(ended.steps, 1);
  EXPECT_EQ(grid[4][1].item<int64_t>(), 77);
}

TEST(Generate, PaddedOracleAgrees) {
  const auto backbone = Backbone::random(tiny_llama(), 5);
  const std::vector<Tokens> prompts = {random_tokens(7, 1), random_tokens(2, 2)};
  Tensor ids = at::zeros({2, 7}, at::kLong), mask = at::zeros({2, 7}, at::kBool);
  for (int64_t row = 0; row < 2; ++row) {
    const int64_t length = static_cast<int64_t>(prompts[row].size());
    ids[row].narrow(0, 7 - length, length).copy_(ids_of(prompts[row]));
    mask[row].narrow(0, 7 - length, length).fill_(true);
  }
  const Tensor positions = (mask.to(at::kLong).cumsum(1) - 1).masked_fill(mask.logical_not(), 1);
  const GenerateOptions options{.max_new_tokens = 5, .want_step_logits = true};
  const GenerateResult found = generate(*backbone, prompts, options);
  const GenerateResult oracle = generate_padded(*backbone, backbone->embed(ids), mask, positions, options);
  EXPECT_EQ(found.tokens, oracle.tokens);
  EXPECT_LT(relative_error(found.step_logits_BTV, oracle.step_logits_BTV), 2e-5);
  expect_error(ErrorKind::kInput, "ends in padding",
               [&] { generate_padded(*backbone, backbone->embed(ids), mask.flip(1), positions, options); });
}

TEST(Generate, SamplingDependsOnSeedAndPlaceAlone) {
  const auto backbone = Backbone::random(tiny_llama(), 5);
  const std::vector<Tokens> prompts = {random_tokens(7, 1), random_tokens(7, 1), random_tokens(2, 2)};
  const GenerateOptions options{.max_new_tokens = 12, .temperature = 1.5, .seed = 3};
  const auto first = generate(*backbone, prompts, options).tokens;
  EXPECT_EQ(first, generate(*backbone, prompts, options).tokens);
  EXPECT_NE(first[0], first[1]);
  EXPECT_EQ(first[0], generate(*backbone, {prompts[0]}, options).tokens[0]);
  GenerateOptions other = options;
  other.seed = 4;
  EXPECT_NE(first, generate(*backbone, prompts, other).tokens);
  GenerateOptions nearly_greedy = options;
  nearly_greedy.top_k = 1;
  EXPECT_EQ(generate(*backbone, prompts, nearly_greedy).tokens,
            generate(*backbone, prompts, {.max_new_tokens = 12}).tokens);
}

TEST(Generate, RefusesToStartFromNothing) {
  const auto backbone = Backbone::random(tiny_llama(), 5);
  expect_error(ErrorKind::kUsage, "nothing to go on from", [&] { generate(*backbone, {{5}, {}}, {}); });
  Memory memory;
  expect_error(ErrorKind::kInternal, "found 1, 0 and 0", [&] { generate(*backbone, memory, {0}, {}, {}); });
  EXPECT_TRUE(generate(*backbone, {}, {}).tokens.empty());
}

TEST(Sampling, FollowsTheDistributionAndItsCuts) {
  // Probabilities 0.1, 0.6, 0.3 at temperature 1.
  const Tensor logits = at::tensor({0.1, 0.6, 0.3}).log();
  EXPECT_EQ(sample_token(logits, 1, 0, 1, 0.0), 1);
  EXPECT_EQ(sample_token(logits, 1, 0, 1, 0.59), 1);
  EXPECT_EQ(sample_token(logits, 1, 0, 1, 0.61), 2);
  EXPECT_EQ(sample_token(logits, 1, 0, 1, 0.89), 2);
  EXPECT_EQ(sample_token(logits, 1, 0, 1, 0.91), 0);
  EXPECT_EQ(sample_token(logits, 1, 2, 1, 0.99), 2);  // two likeliest: 2/3, 1/3
  EXPECT_EQ(sample_token(logits, 1, 2, 1, 0.66), 1);
  EXPECT_EQ(sample_token(logits, 1, 0, 0.5, 0.99), 1);  // the first alone reaches 0.5
  EXPECT_EQ(sample_token(logits, 1, 0, 0.7, 0.99), 2);
  EXPECT_EQ(sample_token(logits, 100, 0, 1, 0.5), 2);  // nearly uniform
  expect_error(ErrorKind::kUsage, "temperature 0", [&] { sample_token(logits, 0, 0, 1, 0); });
  expect_error(ErrorKind::kUsage, "top_k -1", [&] { sample_token(logits, 1, -1, 1, 0); });
  expect_error(ErrorKind::kUsage, "top_p 0", [&] { sample_token(logits, 1, 0, 0, 0); });
}

}  // namespace
}  // namespace ctxc
