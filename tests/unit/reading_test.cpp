// Memories read by the decoder: slots once for all questions, against one plain sequence per question.
#include <gtest/gtest.h>

#include "model/compressor.h"
#include "model/objective.h"
#include "model/reading.h"
#include "throws.h"
#include "tiny_llama.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::ids_of;
using testing::packed_text;
using testing::random_tensor;
using testing::random_tokens;
using testing::relative_error;
using testing::tiny_llama;

/// Two rows of four slots, one slot of the second masked; head of one token; columns keep their positions.
Memory slot_memory() {
  Memory memory;
  memory.head_ids_BP = at::ones({2, 1}, at::kLong);
  memory.slots_BKD = random_tensor({2, 4, 32}, 1).requires_grad_();
  memory.mask_BK = at::ones({2, 4}, at::kBool);
  memory.mask_BK[1][2].fill_(false);
  number_by_column(memory, 1);
  return memory;
}

Query query(Tokens prompt, Tokens target) {
  Query made;
  made.prompt = std::move(prompt);
  made.target = std::move(target);
  return made;
}

Batch two_examples() {
  Batch batch;
  batch.examples.resize(2);
  batch.examples[0].queries = {query(random_tokens(3, 1), random_tokens(2, 2)),
                               query(random_tokens(2, 9), {}),
                               query(random_tokens(1, 3), random_tokens(4, 4))};
  batch.examples[1].queries = {query({}, random_tokens(3, 5)), query({}, random_tokens(1, 6))};
  return batch;
}

/// Sum of -log p over the supervised tokens of all queries, each read alone: [head, its valid slots, text].
struct Slow {
  double total = 0;
  int64_t count = 0;
};
Slow read_one_by_one(const Backbone& backbone, const Memory& memory, const Batch& batch) {
  Slow slow;
  for (size_t row = 0; row < batch.examples.size(); ++row) {
    const Tensor valid = memory.mask_BK[row].nonzero().flatten();
    const Tensor head = backbone.embed(memory.head_ids_BP[row]);
    for (const Query& query : batch.examples[row].queries) {
      if (query.target.empty()) continue;
      Tokens text = query.prompt;
      text.insert(text.end(), query.target.begin(), query.target.end());
      const int64_t length = static_cast<int64_t>(text.size()), prefix = 1 + valid.numel();
      const Tensor embeds =
          at::cat({head, memory.slots_BKD[row].index_select(0, valid), backbone.embed(ids_of(text))});
      const Tensor positions =
          at::cat({at::arange(1, at::kLong), memory.position_BK[row].index_select(0, valid),
                   memory.next_position_B[row] + at::arange(length, at::kLong)});
      const Tensor hidden =
          backbone.forward_padded(embeds.unsqueeze(0), {}, positions.unsqueeze(0)).hidden[0][0];
      const int64_t targets = static_cast<int64_t>(query.target.size());
      const Tensor logprobs =
          at::log_softmax(backbone.logits(hidden.narrow(0, prefix + length - targets - 1, targets)), -1);
      slow.total -= logprobs.gather(1, ids_of(query.target).unsqueeze(1)).sum().item<double>();
      slow.count += targets;
    }
  }
  return slow;
}

Tensor cross_entropy(const Backbone& backbone, const Memory& memory, const Batch& batch) {
  BatchReading reading(backbone, memory, batch);
  return (*objective_registry().at("ce").factory())(reading, {}).at("ce");
}

TEST(Reading, OneBlockPerContextEqualsOneSequencePerQuestion) {
  const auto backbone = Backbone::random(tiny_llama(), 5);
  const Memory memory = slot_memory();
  const Batch batch = two_examples();
  const Tensor loss = cross_entropy(*backbone, memory, batch);
  const Slow slow = read_one_by_one(*backbone, memory, batch);
  EXPECT_EQ(slow.count, batch.supervised_tokens());
  EXPECT_NEAR(loss.item<double>(), slow.total / slow.count, 1e-5);
  loss.backward();
  const Tensor grad = memory.slots_BKD.grad();
  EXPECT_EQ(grad[1][2].abs().max().item<float>(), 0);  // the masked slot is not read
  EXPECT_GT(grad[1][3].abs().max().item<float>(), 0);
}

TEST(Reading, ObjectivesShareOneRunOfTheDecoder) {
  const auto backbone = Backbone::random(tiny_llama(), 5);
  const Memory memory = slot_memory();
  Batch batch = two_examples();
  for (size_t row = 0; row < 2; ++row) batch.examples[row].context = random_tokens(6, 40 + row);
  BatchReading reading(*backbone, memory, batch);
  const Tensor hidden = reading.hidden_MD();
  EXPECT_TRUE(reading.hidden_MD().is_same(hidden));
  const Tensor ce = (*objective_registry().at("ce").factory())(reading, {}).at("ce");
  const Tensor kd = (*objective_registry().at("kd").factory())(reading, {}).at("kd");
  (ce + kd).backward();
  const Tensor together = memory.slots_BKD.grad().clone();
  memory.slots_BKD.mutable_grad() = Tensor();
  for (const char* name : {"ce", "kd"}) {
    BatchReading alone(*backbone, memory, batch);
    (*objective_registry().at(name).factory())(alone, {}).at(name).backward();
  }
  EXPECT_TRUE(at::allclose(memory.slots_BKD.grad(), together, 1e-4, 1e-6));
}

TEST(Reading, SpendsNothingOnWhatPredictsNothing) {
  const auto backbone = Backbone::random(tiny_llama(), 5);
  const Reading reading = read_memory(*backbone, slot_memory(), two_examples());
  ASSERT_EQ(reading.rows.segments.size(), 2u);
  EXPECT_EQ(reading.rows.segments[0].length,
            5 + (3 + 1) + (1 + 3));  // head, slots, texts without their last token
  EXPECT_EQ(reading.rows.segments[1].length, 4 + 2 + 0);
  EXPECT_EQ(reading.target_M.numel(), 10);
  EXPECT_TRUE(reading.source_M.equal(at::tensor({7, 8, 9, 10, 11, 12, 16, 17, 18, 16}, at::kLong)));
}

TEST(Reading, KeysOfAMemoryEqualItsTokens) {
  const auto backbone = Backbone::random(tiny_llama(), 5);
  // The context as keys: row 0 of 5 tokens, row 1 of 3 and two columns of rubbish. No head.
  Memory memory;
  memory.head_ids_BP = at::zeros({2, 0}, at::kLong);
  memory.mask_BK = at::ones({2, 5}, at::kBool);
  memory.mask_BK[1].narrow(0, 3, 2).fill_(false);
  number_densely(memory, 0);
  Memory tokens = memory;
  const Tokens long_context = random_tokens(5, 20), short_context = random_tokens(3, 21);
  const auto first = backbone->forward(packed_text(*backbone, long_context), {.keep_kv = true}).kv;
  const auto second = backbone->forward(packed_text(*backbone, short_context), {.keep_kv = true}).kv;
  for (size_t layer = 0; layer < first.size(); ++layer) {
    const Tensor rubbish = random_tensor({1, 2, 2, 8}, 30);
    memory.kv.push_back(
        {at::cat({first[layer].key_BGKE, at::cat({second[layer].key_BGKE, rubbish}, 2)}),
         at::cat({first[layer].value_BGKE, at::cat({second[layer].value_BGKE, rubbish}, 2)})});
  }
  tokens.slots_BKD = at::zeros({2, 5, 32});
  tokens.slots_BKD[0].copy_(backbone->embed(ids_of(long_context)));
  tokens.slots_BKD[1].narrow(0, 0, 3).copy_(backbone->embed(ids_of(short_context)));
  Batch batch = two_examples();
  batch.examples[1].queries = {query(random_tokens(2, 7), random_tokens(3, 5))};
  EXPECT_NEAR(cross_entropy(*backbone, memory, batch).item<double>(),
              cross_entropy(*backbone, tokens, batch).item<double>(), 1e-5);
}

TEST(Reading, HeadInFrontOfKeysDoesNotSeeThem) {
  const auto backbone = Backbone::random(tiny_llama(), 5);
  Memory memory;
  memory.head_ids_BP = at::ones({1, 1}, at::kLong);
  memory.mask_BK = at::ones({1, 2}, at::kBool);
  number_densely(memory, 1);
  for (int64_t layer = 0; layer < 3; ++layer)
    memory.kv.push_back({random_tensor({1, 2, 2, 8}, layer), random_tensor({1, 2, 2, 8}, 9)});
  const auto packed = pack_reading(*backbone, memory, {{.row = 0, .texts = {random_tokens(3, 1)}}});
  const Tensor hidden = backbone->forward(packed.rows).hidden[0];
  EXPECT_LT(relative_error(hidden.narrow(0, 0, 1), backbone->forward(packed_text(*backbone, {1})).hidden[0]),
            2e-5);
  EXPECT_TRUE(packed.rows.positions_P.equal(at::tensor({0, 3, 4, 5}, at::kLong)));
}

TEST(Reading, RefusesTargetsWithNothingBeforeThem) {
  const auto backbone = Backbone::random(tiny_llama(), 5);
  Memory nothing;
  nothing.head_ids_BP = at::zeros({2, 0}, at::kLong);
  nothing.mask_BK = at::zeros({2, 0}, at::kBool);
  number_densely(nothing, 0);
  expect_error(ErrorKind::kUsage, "nothing stands before",
               [&] { read_memory(*backbone, nothing, two_examples()); });
  Batch empty = two_examples();
  for (Example& example : empty.examples)
    for (Query& query : example.queries) query.target.clear();
  const Memory memory = slot_memory();
  expect_error(ErrorKind::kInput, "objective ce: a batch of 2 examples has no supervised token",
               [&] { cross_entropy(*backbone, memory, empty); });
  expect_error(ErrorKind::kInternal, "found row 2",
               [&] { pack_reading(*backbone, slot_memory(), {{.row = 2, .texts = {}}}); });
}

TEST(Context, ComputesEachStateOnceAndOnlyThoseAsked) {
  const auto backbone = Backbone::random(tiny_llama(), 5);
  const Tokens first = random_tokens(7, 1), second = random_tokens(4, 2);
  Context context(*backbone, {first, {}, second});
  EXPECT_EQ(context.offsets(), (std::vector<int64_t>{0, 7, 7}));
  EXPECT_EQ(context.padded_length(), 7);
  const auto states = context.hidden({0, 3, 0});
  ASSERT_EQ(states.size(), 3u);
  EXPECT_TRUE(states[0].equal(context.embed()));
  EXPECT_LT(
      relative_error(states[1].narrow(0, 7, 4), backbone->forward(packed_text(*backbone, second)).hidden[0]),
      2e-5);
  EXPECT_TRUE(context.hidden({3})[0].is_same(states[1]));
  EXPECT_LT(relative_error(context.hidden({2}, 2)[0].narrow(0, 0, 7),
                           backbone->forward(packed_text(*backbone, first), {.layers = 2}).hidden[0]),
            2e-5);
  expect_error(ErrorKind::kInternal, "found 7 tokens, expected at most 6",
               [&] { Context(*backbone, {first}, 6); });
}

TEST(Context, KeepsNoGraphUnlessTheBackboneTrains) {
  const auto frozen = Backbone::random(tiny_llama(), 5),
             trained = Backbone::random(tiny_llama(), 5, {.trainable = true});
  Context closed(*frozen, {random_tokens(3, 1)}), open(*trained, {random_tokens(3, 1)});
  EXPECT_FALSE(closed.hidden({3})[0].requires_grad());
  EXPECT_TRUE(open.hidden({3})[0].requires_grad());
}

}  // namespace
}  // namespace ctxc
