// A tiny Llama (tied head, grouped queries, llama3 RoPE) whose numbers transformers computed:
// tests/fixtures/llama, made by tests/fixtures/make_llama_golden.py.
#include <gtest/gtest.h>

#include "parity/llama_case.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::expect_error;

std::string fixture(const std::string& name) {
  return (testing::root() / "tests/fixtures/llama" / name).string();
}

TEST(LlamaGolden, EveryPathEqualsTransformers) {
  testing::check_llama_case(fixture("tied_gqa_llama3"), fixture("tied_gqa_llama3.safetensors"));
}

TEST(LlamaGolden, Bfloat16StorageStaysNear) {
  const auto golden = load_tensors(fixture("tied_gqa_llama3.safetensors"));
  const auto backbone = Backbone::load(fixture("tied_gqa_llama3"), {.dtype = "bfloat16"});
  const auto inputs = read_trace_inputs(fixture("tied_gqa_llama3.safetensors"), "full.");
  const auto found = testing::by_name(trace_backbone(*backbone, inputs, {.mode = "forward"}));
  const double error = testing::relative_error(found.at("logits"), golden.at("full.logits"));
  EXPECT_LT(error, 0.1);   // weights rounded to 8 bits
  EXPECT_GT(error, 1e-4);  // they were
}

TEST(Trace, ProgramWritesNamesAndLayouts) {
  const testing::TempDir dir;
  const std::string out = (dir / "out.safetensors").string();
  const std::string command = fmt::format(
      "'{}' trace --model '{}' --in '{}' --prefix full. --mode forward --threads 1 --out '{}' --quiet",
      testing::program("ctxc-inspect"), fixture("tied_gqa_llama3"), fixture("tied_gqa_llama3.safetensors"),
      out);
  ASSERT_EQ(std::system(command.c_str()), 0);
  const auto found = load_tensors(out), golden = load_tensors(fixture("tied_gqa_llama3.safetensors"));
  EXPECT_LT(testing::relative_error(found.at("hidden_states"), golden.at("full.hidden_states")),
            testing::kValues);
  EXPECT_EQ(found.at("token_logprobs").sizes(), at::IntArrayRef({1, 39}));
  EXPECT_NEAR(-found.at("token_logprobs").mean().item<double>(),
              golden.at("full.loss_next_token").item<double>(), 1e-3);
  EXPECT_EQ(found.at("position_ids").scalar_type(), at::kLong);
}

/// A case file with these tensors.
std::string case_file(const testing::TempDir& dir,
                      const std::vector<std::pair<std::string, Tensor>>& tensors) {
  const std::string path = (dir / "case.safetensors").string();
  save_tensors(path, tensors);
  return path;
}

TEST(Trace, ReadsMasksOfEveryTypeAndFillsMissingOnes) {
  const testing::TempDir dir;
  const Tensor ids = at::ones({2, 3}, at::kLong),
               mask = at::tensor({0, 1, 1, 1, 1, 1}, at::kLong).view({2, 3});
  for (const auto type : {at::kByte, at::kBool, at::kLong}) {
    const TraceInputs inputs =
        read_trace_inputs(case_file(dir, {{"in.input_ids", ids}, {"in.attention_mask", mask.to(type)}}), "");
    EXPECT_TRUE(inputs.attention_mask_BT.equal(mask.to(at::kBool)));
    EXPECT_TRUE(inputs.context_mask_BT.all().item<bool>());
    EXPECT_FALSE(inputs.labels_BT.defined());
  }
  const auto prefixed = case_file(dir, {{"a.in.input_ids", ids}, {"b.input_ids", ids * 2}});
  EXPECT_TRUE(read_trace_inputs(prefixed, "a.").input_ids_BT.equal(ids));
  EXPECT_TRUE(read_trace_inputs(prefixed, "b.").input_ids_BT.equal(ids * 2));
}

TEST(Trace, RefusesBrokenCases) {
  const testing::TempDir dir;
  const Tensor ids = at::ones({2, 3}, at::kLong);
  const auto read = [&](const std::vector<std::pair<std::string, Tensor>>& tensors) {
    read_trace_inputs(case_file(dir, tensors), "");
  };
  expect_error(ErrorKind::kInput, "no tensor 'in.input_ids'", [&] { read({{"input_ids", ids}}); });
  expect_error(ErrorKind::kInput, "input_ids has a wrong type", [&] {
    read({{"in.input_ids", ids.to(at::kFloat)}});
  });
  expect_error(ErrorKind::kInput, "expected [B, T]", [&] { read({{"in.input_ids", ids.flatten()}}); });
  expect_error(ErrorKind::kInput, "expected [2, 3]", [&] {
    read({{"in.input_ids", ids}, {"in.attention_mask", at::ones({2, 4}, at::kLong)}});
  });
  expect_error(ErrorKind::kInput, "is empty", [&] {
    read({{"in.input_ids", at::zeros({0, 3}, at::kLong)}});
  });
  const auto backbone = Backbone::random(testing::tiny_llama(), 1);
  const TraceInputs inputs{.input_ids_BT = ids,
                           .attention_mask_BT = at::ones({2, 3}, at::kBool),
                           .context_mask_BT = {},
                           .labels_BT = at::ones({2, 2}, at::kLong)};
  expect_error(ErrorKind::kUsage, "found 'walk'",
               [&] { trace_backbone(*backbone, inputs, {.mode = "walk"}); });
  expect_error(ErrorKind::kUsage, "found 'left'",
               [&] { trace_backbone(*backbone, inputs, {.mode = "forward", .positions = "left"}); });
  expect_error(ErrorKind::kUsage, "found 'a=1'",
               [&] { trace_backbone(*backbone, inputs, {.mode = "forward", .overrides = {"a=1"}}); });
  expect_error(ErrorKind::kInput, "differ in shape",
               [&] { trace_backbone(*backbone, inputs, {.mode = "train"}); });
}

}  // namespace
}  // namespace ctxc
