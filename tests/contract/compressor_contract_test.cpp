// What every registered method must satisfy. A method is tested with the `compressor` section of
// configs/<name>_tiny.yaml where there is one, else with its defaults; nothing here knows a method by name.
#include "model/compressor.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "core/config_file.h"
#include "model/budget.h"
#include "model/memory_artifact.h"
#include "model/objective.h"
#include "model/weights.h"
#include "small_adam.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

constexpr uint64_t kSeed = 7;

LlamaConfig tiny_llama() {
  LlamaConfig config;
  config.vocab_size = 96;
  config.hidden_size = 32;
  config.num_layers = 3;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 8;
  config.intermediate_size = 64;
  config.max_position = 512;
  config.tie_word_embeddings = true;
  config.initializer_range = 0.2;  // large enough that attention and MLP matter in a random model
  config.bos = 1;
  config.eos = {2};
  return config;
}

Tokens random_tokens(int64_t count, uint64_t index) {
  CounterRng rng(kSeed, "contract", 0, index);
  Tokens tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<TokenId>(3 + rng.below(90)));
  return tokens;
}

Batch small_batch() {
  Batch batch;
  batch.key = {.seed = kSeed, .step = 0, .micro = 0, .training = true};
  const std::vector<int64_t> lengths = {37, 5, 16};
  for (size_t row = 0; row < lengths.size(); ++row) {
    Example example;
    example.context = random_tokens(lengths[row], row);
    for (uint64_t q = 0; q < 2; ++q) {
      Query query;
      query.prompt = random_tokens(4 + static_cast<int64_t>(q), 100 + 10 * row + q);
      query.target = random_tokens(3, 200 + 10 * row + q);
      example.queries.push_back(query);
    }
    batch.examples.push_back(example);
  }
  return batch;
}

class CompressorContract : public ::testing::TestWithParam<std::string> {
 protected:
  CompressorContract() : backbone_(Backbone::random(tiny_llama(), kSeed)), batch_(small_batch()) {}
  void SetUp() override {
    if (make()->scope() == Scope::kPerDocument)
      GTEST_SKIP() << "optimised anew for every context: tests/unit/lcc_test.cpp";
  }

  Yaml section() const {
    const auto path = testing::root() / "configs" / (GetParam() + "_tiny.yaml");
    if (std::filesystem::exists(path)) {
      const Yaml config = load_config_file(path.string());
      if (const Yaml* found = config.find("compressor")) return *found;
    }
    return Yaml::parse("name: " + GetParam(), "contract");
  }
  std::shared_ptr<Compressor> make(uint64_t seed = kSeed) const {
    return make_compressor(section(), {.backbone = tiny_llama(), .head_ids = {1}, .seed = seed});
  }
  Compressed compress(Compressor& method, int64_t padded_length = 0) const {
    std::vector<Tokens> contexts;
    for (const Example& example : batch_.examples) contexts.push_back(example.context);
    Context context(*backbone_, std::move(contexts), padded_length);
    return method.compress(context, batch_.key);
  }
  /// What the configuration trains: the sum that its section `objective` weighs, else the cross-entropy.
  Tensor loss(Compressor& method, int64_t step = 0) const {
    StepKey key = batch_.key;
    key.step = step;
    Context context(*backbone_, batch_);
    Compressed result = method.compress(context, key);
    Terms terms = std::move(result.aux);
    BatchReading reading(*backbone_, result.memory, batch_);
    terms.merge((*objective_registry().at("ce").factory())(reading, key));
    Tensor sum;
    for (const auto& [name, weight] : weights()) {
      const Tensor part = terms.at(name) * weight;
      sum = sum.defined() ? sum + part : part;
    }
    return sum;
  }
  /// Losses of plain gradient steps `first` .. `last`.
  std::vector<double> descend(Compressor& method, int64_t first, int64_t last) const {
    std::vector<double> losses;
    for (int64_t step = first; step < last; ++step) {
      method.zero_grad();
      const Tensor value = loss(method, step);
      value.backward();
      losses.push_back(value.item<double>());
      const at::NoGradGuard no_grad;
      for (auto& parameter : method.parameters())
        if (parameter.grad().defined()) parameter.sub_(parameter.grad(), 0.01);
    }
    return losses;
  }
  std::map<std::string, double> weights() const {
    const auto path = testing::root() / "configs" / (GetParam() + "_tiny.yaml");
    if (!std::filesystem::exists(path)) return {{"ce", 1}};
    const Yaml config = load_config_file(path.string());
    const Yaml* objective = config.find("objective");
    std::map<std::string, double> weights;
    if (!objective) return {{"ce", 1}};
    for (const auto& [name, weight] : objective->entries()) weights[name] = std::stod(weight.scalar());
    return weights;
  }

  std::shared_ptr<Backbone> backbone_;
  Batch batch_;
};

/// What a checkpoint keeps of a method: its parameters and buffers.
std::vector<std::pair<std::string, Tensor>> tensors_of(const Compressor& method) {
  std::vector<std::pair<std::string, Tensor>> tensors;
  for (const auto& item : method.named_parameters())
    tensors.emplace_back(item.key(), item.value().detach().contiguous());
  for (const auto& item : method.named_buffers()) tensors.emplace_back(item.key(), item.value().contiguous());
  return tensors;
}

/// The valid slots of one row, or of every layer's keys and values, as one tensor.
Tensor valid_entries(const Memory& memory, int64_t row) {
  const Tensor index = memory.mask_BK[row].nonzero().squeeze(1);
  if (memory.slots_BKD.defined()) return memory.slots_BKD[row].index_select(0, index);
  std::vector<Tensor> parts;
  for (const KvPair& pair : memory.kv) {
    parts.push_back(pair.key_BGKE[row].index_select(1, index));
    parts.push_back(pair.value_BGKE[row].index_select(1, index));
  }
  return at::stack(parts);
}

TEST_P(CompressorContract, ShapesMasksAndPositions) {
  const auto method = make();
  const Memory memory = compress(*method).memory;
  const int64_t batch = static_cast<int64_t>(batch_.examples.size()), slots = memory.slots();
  ASSERT_EQ(memory.batch(), batch);
  EXPECT_EQ(memory.mask_BK.scalar_type(), at::kBool);
  EXPECT_EQ(memory.head_ids_BP.size(0), batch);
  if (memory.slots_BKD.defined()) {
    EXPECT_EQ(memory.slots_BKD.sizes(), at::IntArrayRef({batch, slots, tiny_llama().hidden_size}));
  } else {
    ASSERT_EQ(static_cast<int64_t>(memory.kv.size()), tiny_llama().num_layers);
    EXPECT_EQ(memory.kv[0].key_BGKE.sizes(),
              at::IntArrayRef({batch, tiny_llama().num_kv_heads, slots, tiny_llama().head_dim}));
  }
  for (int64_t row = 0; row < batch; ++row) {
    const int64_t length = static_cast<int64_t>(batch_.examples[row].context.size());
    const int64_t valid = memory.mask_BK[row].sum().item<int64_t>();
    EXPECT_EQ(valid, method->slots_for(length)) << "row " << row << " of " << length << " tokens";
    EXPECT_TRUE(valid_entries(memory, row).isfinite().all().item<bool>());
    int64_t previous = memory.head_ids_BP.size(1) - 1;
    for (int64_t slot = 0; slot < slots; ++slot) {
      if (!memory.mask_BK[row][slot].item<bool>()) continue;
      const int64_t position = memory.position_BK[row][slot].item<int64_t>();
      EXPECT_GT(position, previous);
      previous = position;
    }
    EXPECT_GT(memory.next_position_B[row].item<int64_t>(), previous);
  }
}

TEST_P(CompressorContract, PaddingChangesNothing) {
  const auto method = make();
  const Memory plain = compress(*method).memory, padded = compress(*method, 64).memory;
  for (int64_t row = 0; row < plain.batch(); ++row)
    EXPECT_TRUE(at::allclose(valid_entries(plain, row), valid_entries(padded, row), 1e-5, 1e-6))
        << "row " << row;
}

TEST_P(CompressorContract, BatchOrderAndCompanyChangeNothing) {
  const auto method = make();
  const Memory together = compress(*method).memory;
  for (int64_t row = 0; row < together.batch(); ++row) {
    Context alone(*backbone_, {batch_.examples[row].context});
    const Memory single = method->compress(alone, batch_.key).memory;
    EXPECT_TRUE(at::allclose(valid_entries(together, row), valid_entries(single, 0), 1e-4, 1e-5))
        << "row " << row;
  }
}

TEST_P(CompressorContract, TheRatioIsReal) {
  const auto method = make();
  if (method->ratio() == 0) GTEST_SKIP() << "promises no ratio";
  for (int64_t tokens = 0; tokens <= 200; ++tokens)
    EXPECT_LE(method->slots_for(tokens), (tokens + method->ratio() - 1) / method->ratio()) << tokens;
  check_budget(compress(*method).memory, {37, 5, 16}, method->ratio());
}

/// What reads a row in one pass of the base must not read beyond where that base was trained to.
TEST_P(CompressorContract, ReadsWithinTheWindowOfTheBase) {
  const auto method = make();
  const Needs needs = method->needs();
  bool reads = needs.lora || needs.kv;
  for (const int64_t index : needs.hidden) reads = reads || index > 0;  // embeddings know no position
  const int64_t window = backbone_->config().max_position;
  Context within(*backbone_, {random_tokens(window / 2, 1)}),
      beyond(*backbone_, {random_tokens(window / 2, 1), random_tokens(window + 1, 2)});
  const at::NoGradGuard no_grad;
  StepKey key = batch_.key;
  key.training = false;
  method->compress(within, key);
  if (reads && method->stream_tokens() == 0)
    testing::expect_error(ErrorKind::kInput, "found 513 tokens", [&] { method->compress(beyond, key); });
  else
    method->compress(beyond, key);
}

/// As a micro-batch of one row may be: no term of the loss is missing, and nothing is NaN.
TEST_P(CompressorContract, AnEmptyContextAloneHasALoss) {
  batch_.examples.resize(1);
  batch_.examples[0].context.clear();
  EXPECT_TRUE(loss(*make()).isfinite().item<bool>());
}

TEST_P(CompressorContract, SameKeySameBits) {
  const auto method = make();
  const Memory first = compress(*method).memory, second = compress(*method).memory;
  for (int64_t row = 0; row < first.batch(); ++row)
    EXPECT_TRUE(at::equal(valid_entries(first, row), valid_entries(second, row)));
}

TEST_P(CompressorContract, SameSeedSameParameters) {
  const auto first = make(), second = make();
  const auto a = first->named_parameters(), b = second->named_parameters();
  ASSERT_EQ(a.size(), b.size());
  for (const auto& item : a) EXPECT_TRUE(at::equal(item.value(), b[item.key()])) << item.key();
}

TEST_P(CompressorContract, ParametersCarryTheWholeState) {
  const auto original = make(), copy = make(kSeed + 1);
  at::NoGradGuard no_grad;
  const auto source = original->named_parameters();
  for (auto& item : copy->named_parameters()) item.value().copy_(source[item.key()]);
  const Memory a = compress(*original).memory, b = compress(*copy).memory;
  for (int64_t row = 0; row < a.batch(); ++row)
    EXPECT_TRUE(at::equal(valid_entries(a, row), valid_entries(b, row)));
}

TEST_P(CompressorContract, ConfigurationRoundTrips) {
  const auto method = make();
  const std::string text = method->config_yaml();
  const Yaml again = Yaml::parse("name: " + GetParam() + "\n" + text, "dump");
  const auto second = make_compressor(again, {.backbone = tiny_llama(), .head_ids = {1}, .seed = kSeed});
  EXPECT_EQ(second->config_yaml(), text);
  EXPECT_EQ(compressor_registry().at(GetParam()).factory.resolve(section(), "compressor"), text);
}

TEST_P(CompressorContract, EveryKeyHasHelp) {
  const auto& entry = compressor_registry().at(GetParam());
  EXPECT_FALSE(entry.help.empty());
  const Yaml dumped = Yaml::parse(make()->config_yaml(), "dump");
  if (dumped.kind() != Yaml::Kind::kMap) return;
  for (const auto& [key, value] : dumped.entries()) EXPECT_FALSE(entry.factory.help(key).empty()) << key;
}

TEST_P(CompressorContract, GradientsReachEveryTrainableAndNothingFrozen) {
  const auto method = make();
  if (method->parameters().empty()) GTEST_SKIP() << "no parameters";
  // Some parts start at zero and get a gradient only once their factor has moved: one plain step first.
  for (int pass = 0; pass < 2; ++pass) {
    method->zero_grad();
    loss(*method).backward();
    if (pass == 1) break;
    at::NoGradGuard no_grad;
    for (auto& parameter : method->parameters())
      if (parameter.grad().defined()) parameter.sub_(parameter.grad(), 0.05);
  }
  const auto idle = method->idle_parameters();
  for (const auto& item : method->named_parameters()) {
    const Tensor grad = item.value().grad();
    if (idle.count(item.key())) {
      EXPECT_FALSE(idle.at(item.key()).empty()) << item.key() << " is idle without a reason";
      continue;
    }
    ASSERT_TRUE(grad.defined()) << item.key() << " got no gradient";
    EXPECT_TRUE(grad.isfinite().all().item<bool>()) << item.key();
    EXPECT_GT(grad.abs().max().item<double>(), 0) << item.key() << " has a zero gradient";
  }
  for (const auto& [name, weight] : backbone_->weights()) {
    EXPECT_FALSE(weight.requires_grad()) << name;
    EXPECT_FALSE(weight.grad().defined()) << name;
  }
}

TEST_P(CompressorContract, LossFallsOnOneBatch) {
  const auto method = make();
  if (method->parameters().empty()) GTEST_SKIP() << "no parameters";
  const double before = loss(*method).item<double>();
  testing::SmallAdam adam(0.01);
  double after = before;
  for (int step = 1; step <= 30; ++step) {
    method->zero_grad();
    const Tensor value = loss(*method);
    value.backward();
    adam.step(*method);
    after = value.item<double>();
  }
  EXPECT_LT(after, before - 0.05) << "loss before " << before;
}

TEST_P(CompressorContract, ARunResumedFromItsFileIsTheUninterruptedOne) {
  const auto whole = make(), first = make(), second = make(kSeed + 1);
  if (whole->parameters().empty()) GTEST_SKIP() << "no parameters";
  const std::vector<double> losses = descend(*whole, 0, 4);
  descend(*first, 0, 2);
  const testing::TempDir folder;
  const std::string file = (folder / "state.safetensors").string();
  save_tensors(file, tensors_of(*first));
  {
    const at::NoGradGuard no_grad;
    const auto saved = load_tensors(file);
    for (auto& [name, tensor] : tensors_of(*second)) tensor.copy_(saved.at(name));
  }
  EXPECT_EQ(descend(*second, 2, 4), std::vector<double>(losses.begin() + 2, losses.end()));
  const auto expected = tensors_of(*whole), found = tensors_of(*second);
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i)
    EXPECT_TRUE(at::equal(found[i].second, expected[i].second)) << expected[i].first;
}

TEST_P(CompressorContract, AMemoryComesBackFromItsFileBitForBit) {
  const at::NoGradGuard no_grad;
  const auto method = make();
  const Tokenizer tokenizer = Tokenizer::load((testing::root() / "models/tiny-facts").string());
  const testing::TempDir folder;
  for (const Example& example : batch_.examples) {
    Context context(*backbone_, {example.context});
    const Memory memory = method->compress(context, {.training = false}).memory;
    const MemoryArtifact made = make_memory_artifact(memory, 0, *backbone_, tokenizer, GetParam());
    const std::string file = (folder / std::to_string(example.context.size())).string();
    save_memory(file, made);
    const MemoryArtifact read = load_memory(file);
    check_memory_fits(read, *backbone_, tokenizer, false);
    EXPECT_EQ(read.info, made.info);
    const int64_t head = memory.head_ids_BP.size(1), rows = head + memory.mask_BK.sum().item<int64_t>();
    EXPECT_EQ(read.header(), head);
    ASSERT_EQ(read.rows(), rows);
    const Tensor slots = valid_entries(memory, 0);
    if (read.kind == "embeds") {
      const Tensor all = at::cat({backbone_->embed(memory.head_ids_BP[0]), slots});
      EXPECT_TRUE(at::equal(read.embeds_ND, all));
      EXPECT_TRUE(at::equal(memory_of(read, *backbone_).slots_BKD[0], all));
    } else {
      // valid_entries() has a layer's keys before its values.
      const Tensor layers = at::stack({read.k_LGNE.slice(2, head), read.v_LGNE.slice(2, head)}, 1);
      EXPECT_TRUE(at::equal(layers.flatten(0, 1), slots));
    }
    // Read back, it says to the decoder what it said before.
    const Batch batch{.key = batch_.key, .examples = {example}, .padded_length = 0};
    const Memory again = memory_of(read, *backbone_);
    BatchReading before(*backbone_, memory, batch), after(*backbone_, again, batch);
    EXPECT_TRUE(at::allclose(before.hidden_MD(), after.hidden_MD(), 1e-4, 1e-5));
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, CompressorContract, ::testing::ValuesIn(compressor_registry().names()),
                         [](const auto& info) { return info.param; });

TEST(CompressorRegistry, UnknownMethodNamesTheNearest) {
  try {
    make_compressor(Yaml::parse("name: ful", "test"), {.backbone = tiny_llama(), .head_ids = {1}, .seed = 0});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(error.hint().find("'full'"), std::string::npos) << error.hint();
  }
}

}  // namespace
}  // namespace ctxc
