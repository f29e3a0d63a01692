// More models and a real one, where ../shared is there.
#include <gtest/gtest.h>

#include <filesystem>

#include "parity/llama_case.h"
#include "testing.h"

namespace ctxc {
namespace {

using testing::relative_error;

TEST(LlamaShared, TiedGroupedQueriesWithScaledRope) {
  CTXC_NEEDS_SHARED();
  const auto folder = testing::shared() / "fixtures/llama";
  testing::check_llama_case((folder / "tied_gqa_llama3").string(),
                            (folder / "tied_gqa_llama3.safetensors").string());
}

TEST(LlamaShared, UntiedMultiHeadPlainRope) {
  CTXC_NEEDS_SHARED();
  const auto folder = testing::shared() / "fixtures/llama";
  testing::check_llama_case((folder / "untied_mha_plain").string(),
                            (folder / "untied_mha_plain.safetensors").string());
}

/// The GGUF that scripts/setup.sh places, or "".
std::string smollm2() {
  const auto folder = testing::root() / ".deps/models";
  if (std::filesystem::is_directory(folder))
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      if (entry.path().extension() == ".gguf") return entry.path().string();
  return "";
}

TEST(LlamaShared, SmolLM2FromGguf) {
  CTXC_NEEDS_SHARED();
  const std::string model = smollm2();
  if (model.empty()) GTEST_SKIP() << "no .deps/models/*.gguf: run scripts/setup.sh";
  const std::string path = (testing::shared() / "fixtures/smollm2/logits.safetensors").string();
  const auto golden = load_tensors(path);
  const auto backbone = Backbone::load(model);
  for (const std::string text : {"t0.", "t1.", "t2."}) {
    const auto found =
        testing::by_name(trace_backbone(*backbone, read_trace_inputs(path, text), {.mode = "forward"}));
    EXPECT_LT(relative_error(found.at("token_logprobs")[0], golden.at(text + "token_logprobs")),
              testing::kValues)
        << text;
    EXPECT_LT(relative_error(found.at("logits")[0][-1], golden.at(text + "logits_last")), testing::kValues)
        << text;
    EXPECT_LT(
        relative_error(found.at("hidden_states").select(1, 0).select(1, -1), golden.at(text + "hidden_last")),
        testing::kValues);
  }
  const Tensor expected = golden.at("gen.generated");
  const auto generated = testing::by_name(trace_backbone(
      *backbone, read_trace_inputs(path, "gen."), {.mode = "generate", .max_new_tokens = expected.size(1)}));
  EXPECT_TRUE(generated.at("generated").equal(expected));
}

}  // namespace
}  // namespace ctxc
