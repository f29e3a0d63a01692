// ComprExIT against tensors of its own repository's code (../shared/fixtures/comprexit).
#include <cmath>

#include "eval/trace_method.h"
#include "model/artifact.h"
#include "model/parameters.h"
#include "parity/parity.h"

namespace ctxc {
namespace {

using testing::expect_close;
using testing::expect_equal_trace;

const std::set<std::string> kIdle = {"grad.pooling_layer.layer_fusion_k_prj.bias",
                                     "grad.pooling_layer.source_mass.ln.bias",
                                     "grad.pooling_layer.source_mass.mass_prj.bias"};

std::string fixture(const std::string& name) {
  return (testing::shared() / "fixtures/comprexit" / name).string();
}

TraceOutputs trace(const std::string& checkpoint, const std::string& in, const std::string& mode,
                   const std::vector<std::string>& overrides = {}, const std::string& prefix = "") {
  TraceRequest request;
  request.model = fixture("base");
  request.checkpoint = fixture(checkpoint);
  request.mode = mode;
  request.overrides = overrides;
  return trace_checkpoint(read_trace_inputs(fixture(in), prefix), request);
}

TEST(ComprexitShared, NextTokenCase) {
  CTXC_NEEDS_SHARED();
  expect_equal_trace(trace("ckpt_ntp", "case_ntp.safetensors", "train"),
                     load_tensors(fixture("case_ntp.safetensors")), kIdle);
}

TEST(ComprexitShared, AnswerCaseWithPadding) {
  CTXC_NEEDS_SHARED();
  expect_equal_trace(trace("ckpt_sft", "case_sft.safetensors", "train"),
                     load_tensors(fixture("case_sft.safetensors")), kIdle);
}

TEST(ComprexitShared, Generation) {
  CTXC_NEEDS_SHARED();
  auto golden = load_tensors(fixture("case_generate.safetensors"));
  TraceOutputs outputs = trace("ckpt_sft", "case_generate.safetensors", "generate");
  // After its EOS a row's logits are unspecified.
  const Tensor ended =
      golden.at("generated").eq(383).cumsum(1).sub(golden.at("generated").eq(383).to(at::kLong)).gt(0);
  golden["step_logits"] = golden.at("step_logits").masked_fill(ended.unsqueeze(-1), 0);
  for (auto& [name, tensor] : outputs)
    if (name == "step_logits") tensor = tensor.masked_fill(ended.unsqueeze(-1), 0);
  expect_equal_trace(outputs, golden, {}, {"forward_eval_logits_last"});
}

TEST(ComprexitShared, MapReduce) {
  CTXC_NEEDS_SHARED();
  expect_equal_trace(
      trace("ckpt_sft", "case_map_reduce.safetensors", "generate", {"compressor.map_reduce_segment=64"}),
      load_tensors(fixture("case_map_reduce.safetensors")));
}

/// Three AdamW steps over the summed gradients of two micro-batches, as the manifest of the fixtures
/// describes.
TEST(ComprexitShared, ThreeSteps) {
  CTXC_NEEDS_SHARED();
  const auto golden = load_tensors(fixture("case_train3.safetensors"));
  const PeerMethod method = load_peer_method(fixture("ckpt_ntp"), fixture("base"));
  TraceRequest request;
  request.mode = "train";
  const TraceInputs micro[] = {read_trace_inputs(fixture("case_ntp.safetensors"), ""),
                               read_trace_inputs(fixture("case_train3.safetensors"), "in2.")};
  std::map<std::string, Tensor> first, second;
  const double lr[] = {0, 1e-3, 2e-3 / 3},
               norms[] = {27.872209548950195, 27.872209548950195, 30.68625259399414};
  for (int step = 0; step < 3; ++step) {
    std::map<std::string, Tensor> gradient;
    for (const TraceInputs& inputs : micro)
      for (const auto& [name, tensor] : trace_method(*method.backbone, *method.compressor, inputs, request)) {
        if (!name.starts_with("grad.")) continue;
        Tensor& sum = gradient[name.substr(5)];
        sum = sum.defined() ? sum + tensor : tensor;
      }
    double square = 0;
    for (const auto& [name, g] : gradient) square += g.pow(2).sum().item<double>();
    EXPECT_NEAR(std::sqrt(square), norms[step], 1e-3 * norms[step]);
    const double clip = std::min(1.0, 20 / (std::sqrt(square) + 1e-6));
    const at::NoGradGuard no_gradient;
    for (const auto& entry : method.compressor->named_parameters()) {
      const Tensor g = gradient.at(entry.key()) * clip;
      Tensor &m = first[entry.key()], &v = second[entry.key()];
      m = m.defined() ? m * 0.9 + g * 0.1 : g * 0.1;
      v = v.defined() ? v * 0.999 + g * g * 0.001 : g * g * 0.001;
      const double t = step + 1;
      Tensor parameter = entry.value();
      parameter -= lr[step] / (1 - std::pow(0.9, t)) * m / ((v / (1 - std::pow(0.999, t))).sqrt() + 1e-8);
    }
  }
  for (const auto& entry : method.compressor->named_parameters()) {
    if (kIdle.count("grad." + entry.key())) continue;  // AdamW makes steps of rounding noise there
    expect_close(entry.key(), entry.value().detach(), golden.at("after3." + entry.key()), 1e-3);
  }
}

/// Pooling variants on rows padded on the right: windows start at the first token, which is `grid: text`.
TEST(ComprexitShared, Variants) {
  CTXC_NEEDS_SHARED();
  const auto golden = load_tensors(fixture("variants.safetensors"));
  const PeerMethod peer = load_peer_method(fixture("ckpt_sft"));
  const TensorMap trained = parameters_of(*peer.compressor);
  const TraceInputs inputs = read_trace_inputs(fixture("variants.safetensors"), "");
  const std::map<std::string, std::pair<std::string, std::string>> variants = {
      {"ragged_window", {"window", "30"}},
      {"uniform_mass", {"source_mass", "uniform"}},
      {"single_layer", {"single_layer", "2"}},
      {"top_k_2", {"layers", "2"}},
      {"ratio_8", {"ratio", "8"}}};
  for (const auto& [name, change] : variants) {
    const Yaml section = peer.section.with("grid", Yaml::parse("text", "test"))
                             .with(change.first, Yaml::parse(change.second, "test"));
    const auto compressor =
        make_compressor(section, {.backbone = peer.backbone->config(), .head_ids = {}, .seed = 0});
    TensorMap values = below(golden, name + ".param.");
    for (const auto& entry : compressor->named_parameters()) {
      const std::string own = entry.key().substr(std::string("pooling_layer.").size());
      if (values.count(own)) {
        values[entry.key()] = values.at(own);
        values.erase(own);
      } else {
        values[entry.key()] = trained.at(entry.key());
      }
    }
    load_parameters(*compressor, values, name);
    compressor->record(true);
    std::vector<Tokens> contexts;
    for (int64_t row = 0; row < inputs.input_ids_BT.size(0); ++row) {
      Tokens& tokens = contexts.emplace_back();
      for (int64_t i = 0; i < inputs.input_ids_BT.size(1); ++i)
        if (inputs.attention_mask_BT[row][i].item<bool>())
          tokens.push_back(static_cast<TokenId>(inputs.input_ids_BT[row][i].item<int64_t>()));
    }
    Context context(*peer.backbone, contexts);
    const at::NoGradGuard no_gradient;
    compressor->compress(context, {});
    for (const char* tensor : {"layer_weights", "plan", "slots_raw", "slots_mask"})
      expect_close(name + "." + tensor, compressor->recorded().at(tensor), golden.at(name + "." + tensor),
                   1e-4);
  }
}

TEST(ComprexitShared, ReadAndWrittenAgainIsEqual) {
  CTXC_NEEDS_SHARED();
  for (const char* name : {"ckpt_ntp", "ckpt_sft"}) {
    const testing::TempDir folder;
    const PeerMethod method = load_peer_method(fixture(name), fixture("base"));
    save_peer_checkpoint((folder / "out").string(), *method.backbone, *method.compressor, method.section,
                         method.context_length, fixture(name));
    const auto before = load_tensors(fixture(name)), after = load_tensors((folder / "out").string());
    ASSERT_EQ(before.size(), after.size());
    for (const auto& [tensor, value] : before) EXPECT_TRUE(at::equal(value, after.at(tensor))) << tensor;
    const PeerMethod again = load_peer_method((folder / "out").string(), fixture("base"));
    EXPECT_EQ(again.compressor->config_yaml(), method.compressor->config_yaml());
    EXPECT_EQ(again.backbone->config().pad, method.backbone->config().pad);
  }
}

}  // namespace
}  // namespace ctxc
