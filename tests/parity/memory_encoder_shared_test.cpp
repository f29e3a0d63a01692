// ICAE, 500x and SAC against tensors of the ComprExIT repository's code
// (../shared/fixtures/comprexit/baselines).
#include "model/blocks/memory_encoder.h"

#include <algorithm>

#include "core/yaml.h"
#include "model/parameters.h"
#include "model/reading.h"
#include "parity/parity.h"

namespace ctxc {
namespace {

using testing::expect_close;

std::string fixture(const std::string& name) {
  return (testing::shared() / "fixtures/comprexit" / name).string();
}

/// "compressor.base_model.model.backbone.layers.0.mlp.up_proj.lora_A.default.weight" -> ours.
std::string own_name(std::string name, const std::string& prefix = "encoder.") {
  if (name == "memory_embeddings" || name == "role_tokens") return prefix + name;
  name = name.substr(name.find("layers."));
  for (const char* part : {".self_attn", ".mlp", ".default.weight"})
    if (const size_t at = name.find(part); at != std::string::npos) name.erase(at, std::string(part).size());
  std::replace(name.begin(), name.end(), '.', '/');
  return prefix + name;
}

/// One case of the fixtures: contexts (padded on the left), queries (on the right), labels of the queries.
struct Case {
  std::vector<Tokens> contexts, queries;
  std::vector<std::vector<int64_t>> labels;

  Case(const testing::Tensors& golden, const std::string& name) {
    const Tensor ids = golden.at(name + ".in.input_ids"), mask = golden.at(name + ".in.attention_mask"),
                 label = golden.at(name + ".in.labels");
    const int64_t query = label.size(1), context = ids.size(1) - query;
    for (int64_t row = 0; row < ids.size(0); ++row) {
      Tokens& x = contexts.emplace_back();
      Tokens& q = queries.emplace_back();
      labels.emplace_back();
      for (int64_t i = 0; i < ids.size(1); ++i) {
        if (mask[row][i].item<int64_t>() == 0) continue;
        (i < context ? x : q).push_back(static_cast<TokenId>(ids[row][i].item<int64_t>()));
        if (i >= context) labels.back().push_back(label[row][i - context].item<int64_t>());
      }
    }
  }
};

class Baselines : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    CTXC_NEEDS_SHARED();
    backbone_ = Backbone::load(fixture("base"), {.dtype = "float32"});
    golden_ = load_tensors(fixture("baselines/" + GetParam() + "_cases.safetensors"));
    const std::string published = GetParam() == "icae" ? ", scale: false" : ", sink: false";
    method_ =
        make_compressor(Yaml::parse("{name: " + GetParam() +
                                        ", ratio: 0, memory_tokens: 16, lora: {rank: 4, alpha: 8, "
                                        "dropout: 0}" +
                                        published + "}",
                                    "test"),
                        {.backbone = backbone_->config(), .head_ids = {*backbone_->config().bos}, .seed = 0});
    TensorMap values;
    for (const auto& [name, tensor] :
         load_tensors(fixture("baselines/" + GetParam() + "_trainable.safetensors")))
      if (name != "ae_embedding")  // of the published code; nothing reads it
        values[own_name(name)] = name == "memory_embeddings" ? tensor[0] : tensor;
    load_parameters(*method_, values, "fixture");
  }

  std::shared_ptr<Backbone> backbone_;
  testing::Tensors golden_;
  std::shared_ptr<Compressor> method_;
};

TEST_P(Baselines, LogitsLossAndGradients) {
  for (const std::string name : {"ntp", "sft"}) {
    const Case inputs(golden_, name);
    Context context(*backbone_, inputs.contexts);
    const Memory memory = method_->compress(context, {.training = false}).memory;
    // The published 500x reads BOS behind the memory.
    const bool kv = !memory.kv.empty();
    std::vector<Continuations> groups;
    for (size_t row = 0; row < inputs.queries.size(); ++row) {
      Tokens text = inputs.queries[row];
      if (kv) text.insert(text.begin(), static_cast<TokenId>(*backbone_->config().bos));
      groups.push_back({.row = static_cast<int64_t>(row), .texts = {text}});
    }
    const PackedReading reading = pack_reading(*backbone_, memory, groups);
    // The fixture's vocabulary has a row of zeros more, for padding.
    const Tensor logits_PV =
        at::constant_pad_nd(backbone_->logits(backbone_->forward(reading.rows).hidden[0]), {0, 1});

    const Tensor expected = golden_.at(name + ".dec_logits");
    std::vector<Tensor> losses;
    for (size_t row = 0; row < groups.size(); ++row) {
      // Where the golden row is not padded: (head, slots,) BOS and query.
      const int64_t slots = kv ? 0 : memory.slots(),
                    length = 1 + slots + static_cast<int64_t>(inputs.queries[row].size());
      const Tensor own_TV = logits_PV.narrow(0, reading.start[row], length);
      expect_close(name + ".dec_logits", own_TV.detach(),
                   expected[static_cast<int64_t>(row)].slice(0, 0, length), 1e-4);
      for (size_t t = 0; t < inputs.labels[row].size(); ++t) {
        const int64_t label = inputs.labels[row][t];
        if (label >= 0) losses.push_back(-at::log_softmax(own_TV[slots + static_cast<int64_t>(t)], 0)[label]);
      }
    }
    const Tensor loss = at::stack(losses).mean();
    EXPECT_NEAR(loss.item<double>(), golden_.at(name + ".loss").item<double>(), 1e-4) << name;

    method_->zero_grad();
    loss.backward();
    const std::string prefix = name + ".grad.";
    for (const auto& [key, gradient] : testing::Tensors(golden_.lower_bound(prefix), golden_.end())) {
      if (!key.starts_with(prefix) || key.ends_with("ae_embedding")) continue;
      const std::string own = own_name(key.substr(prefix.size()));
      const Tensor found = method_->named_parameters()[own].grad();
      if (!found.defined()) {
        EXPECT_EQ(method_->idle_parameters().count(own), 1u) << key;
        EXPECT_EQ(gradient.abs().max().item<double>(), 0) << key;
        continue;
      }
      expect_close(key, own == "encoder.memory_embeddings" ? found.unsqueeze(0) : found, gradient, 2e-3);
    }
  }
}

/// The published decoder reads a learned vector where ours has the head: its input comes from the fixture.
TEST(Sac, MemoryLogitsLossAndGradients) {
  CTXC_NEEDS_SHARED();
  const auto backbone = Backbone::load(fixture("base"), {.dtype = "float32"});
  const testing::Tensors golden = load_tensors(fixture("baselines/sac_cases.safetensors"));
  const auto method = make_compressor(
      Yaml::parse(
          "{name: sac, ratio: 4, chunk: 64, positions: source, lora: {rank: 4, alpha: 8, dropout: 0}}",
          "test"),
      {.backbone = backbone->config(), .head_ids = {*backbone->config().bos}, .seed = 0});
  TensorMap values;
  for (const auto& [name, tensor] : load_tensors(fixture("baselines/sac_trainable.safetensors")))
    if (name != "lm_special_token") values[own_name(name, "")] = tensor;
  load_parameters(*method, values, "fixture");

  for (const std::string name : {"ntp", "sft"}) {
    const Tensor ids = golden.at(name + ".in.input_ids"), mask = golden.at(name + ".in.attention_mask"),
                 label_BT = golden.at(name + ".in.labels");
    // Padding takes part in the published encoder's attention and not in ours: such rows are left out.
    std::vector<int64_t> whole;
    std::vector<Tokens> contexts;
    for (int64_t row = 0; row < ids.size(0); ++row) {
      if (mask[row].slice(0, 0, 64).sum().item<int64_t>() < 64) continue;
      whole.push_back(row);
      Tokens& context = contexts.emplace_back();
      for (int64_t i = 0; i < 64; ++i) context.push_back(static_cast<TokenId>(ids[row][i].item<int64_t>()));
    }
    ASSERT_EQ(whole.size(), name == "ntp" ? 2u : 1u);
    Context context(*backbone, contexts);
    const Memory memory = method->compress(context, {.training = false}).memory;
    EXPECT_EQ(memory.next_position_B[0].item<int64_t>(), 65);  // head and source
    std::vector<Tensor> keys, of_values;
    for (const KvPair& pair : memory.kv) {
      keys.push_back(pair.key_BGKE);
      of_values.push_back(pair.value_BGKE);
    }
    const Tensor index = at::tensor(whole, at::kLong);
    const auto rows_of = [&](const std::string& key, int64_t dimension) {
      return golden.at(name + key).index_select(dimension, index);
    };
    expect_close(name + " keys", at::stack(keys).detach(), rows_of(".dec_memory_keys", 1), 1e-4);
    expect_close(name + " values", at::stack(of_values).detach(), rows_of(".dec_memory_values", 1), 1e-4);

    PackedRows rows{.embeds_PD = rows_of(".dec_inputs_embeds", 0).flatten(0, 1),
                    .positions_P = rows_of(".dec_position_ids", 0).flatten(),
                    .prefix = memory.kv};
    for (size_t row = 0; row < whole.size(); ++row)
      rows.segments.push_back({.length = label_BT.size(1), .prefix_row = static_cast<int64_t>(row)});
    // The fixture's vocabulary has a row of zeros more, for padding.
    const Tensor logits_PV = at::constant_pad_nd(backbone->logits(backbone->forward(rows).hidden[0]), {0, 1});
    expect_close(name + ".dec_logits", logits_PV.detach(), rows_of(".dec_logits", 0).flatten(0, 1), 1e-4);
    if (whole.size() < static_cast<size_t>(ids.size(0))) continue;

    const Tensor loss = at::cross_entropy_loss(logits_PV, label_BT.flatten());
    EXPECT_NEAR(loss.item<double>(), golden.at(name + ".loss").item<double>(), 1e-4) << name;
    method->zero_grad();
    loss.backward();
    const std::string prefix = name + ".grad.";
    for (const auto& [key, gradient] : golden) {
      if (!key.starts_with(prefix) || key.ends_with("lm_special_token")) continue;
      const std::string own = own_name(key.substr(prefix.size()), "");
      const Tensor found = method->named_parameters()[own].grad();
      if (found.defined()) {
        expect_close(key, found, gradient, 2e-3);
        continue;
      }
      EXPECT_EQ(method->idle_parameters().count(own), 1u) << key;
      EXPECT_EQ(gradient.abs().max().item<double>(), 0) << key;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, Baselines, ::testing::Values("icae", "500x"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace ctxc
