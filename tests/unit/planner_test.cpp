#include "train/planner.h"

#include <gtest/gtest.h>

#include "core/text.h"
#include "throws.h"
#include "train/dry_run.h"
#include "train/trainer.h"
#include "train_runs.h"

namespace ctxc {
namespace {

using testing::tiny_config;

LlamaConfig llama_8b() {
  LlamaConfig llama;
  llama.vocab_size = 128256;
  llama.hidden_size = 4096;
  llama.num_layers = 32;
  llama.num_heads = 32;
  llama.num_kv_heads = 8;
  llama.head_dim = 128;
  llama.intermediate_size = 14336;
  llama.max_position = 131072;
  return llama;
}

Plan plan_8b(int64_t batch) {
  const RunConfig config =
      tiny_config("x", {"run.device=cuda", "run.dtype=bfloat16", "backbone.train=false", "train.keep=1"});
  const auto method =
      make_compressor(Yaml::parse("{name: truncate_head, ratio: 4}", "test"), {llama_8b(), {1}, 0});
  const double n = static_cast<double>(batch);
  const BatchShape shape{n, 512 * n, n, 128 * n, 128 * n, 512};
  return make_plan(config, llama_8b(), *method, 70'308'898, shape, 763);
}

TEST(Planner, CountsWhatIsKnownExactly) {
  const Plan plan = plan_8b(16);
  EXPECT_EQ(plan.backbone_parameters, 8'030'261'248);  // Llama-3.1-8B
  EXPECT_EQ(plan.trainable_parameters, 70'308'898);    // comprexit.md section 8
  EXPECT_DOUBLE_EQ(plan.weights, 8'030'261'248.0 * 2 + 70'308'898.0 * 4);
  EXPECT_DOUBLE_EQ(plan.optimizer, 70'308'898.0 * 8);
  EXPECT_DOUBLE_EQ(plan.checkpoint_bytes, 70'308'898.0 * 12);
  EXPECT_EQ(plan.slots, 128);
}

TEST(Planner, ActivationsGrowWithTheBatchAndDecideWhetherItFits) {
  const Plan small = plan_8b(1), large = plan_8b(16);
  EXPECT_NEAR(large.decoder / small.decoder, 16, 1e-9);
  EXPECT_NEAR(large.flop_per_step / small.flop_per_step, 16, 1e-6);
  EXPECT_LT(small.memory(), small.device_bytes);
  EXPECT_GT(plan_8b(512).memory(), small.device_bytes);
  EXPECT_NE(plan_text(small).find("it fits"), std::string::npos);
  EXPECT_NE(plan_text(plan_8b(512)).find("DOES NOT FIT"), std::string::npos);
  EXPECT_EQ(plan_json(large)["steps"].get<int64_t>(), 763);
}

TEST(Planner, TrainingTheBaseCostsAThirdPassAndItsOptimizerState) {
  const auto method = make_compressor(Yaml::parse("name: full", "test"), {llama_8b(), {1}, 0});
  const BatchShape shape{1, 512, 1, 128, 128, 512};
  const Plan frozen =
      make_plan(tiny_config("x", {}, "{name: full}", false), llama_8b(), *method, 0, shape, 1);
  const Plan trained = make_plan(tiny_config("x"), llama_8b(), *method, 0, shape, 1);
  EXPECT_NEAR(trained.flop_per_step / frozen.flop_per_step, 1.5, 1e-6);
  EXPECT_EQ(frozen.optimizer, 0);
  EXPECT_DOUBLE_EQ(trained.optimizer, 8.0 * 8'030'261'248.0);
}

/// Runs out of memory as a GPU's allocator does.
class Exhausting : public Objective {
 public:
  Terms operator()(BatchReading&, const StepKey&) override {
    C10_THROW_ERROR(OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB.");
  }
};

TEST(Planner, AStepWithoutMemoryShowsThePlan) {
  objective_registry().add(
      "exhausting", [] { return std::make_unique<Exhausting>(); }, "");
  const testing::TempDir temp;
  Trainer trainer(tiny_config((temp / "run").string(), {"objective={exhausting: 1}"}), FolderUse::kNew);
  const std::string hint = testing::expect_error(
      ErrorKind::kMemory, "step 0: out of memory: CUDA out of memory. Tried to allocate 2.00 GiB.",
      [&] { trainer.run(); });
  EXPECT_NE(hint.find("lower train.batch"), std::string::npos);

  Plan plan;
  plan.weights = 3e9;
  const std::string text =
      out_of_memory(7, "none left", plan, {1'000'000'000, 2'000'000'000, 80'000'000'000}).what();
  for (const std::string& part : {std::string("step 7"), human_bytes(3'000'000'000),
                                  human_bytes(2'000'000'000), human_bytes(80'000'000'000)})
    EXPECT_NE(text.find(part), std::string::npos) << text;
}

TEST(DryRun, ShowsDataMaskAndPlanWithoutWriting) {
  const testing::TempDir temp;
  const DryRun result = dry_run(tiny_config((temp / "run").string()));
  for (const char* part : {"compressor:", "training data:", "validation data:", "supervised: [",
                           "<|endoftext|>", "context:", "parameters:", "disk:"})
    EXPECT_NE(result.text.find(part), std::string::npos) << part;
  EXPECT_GT(result.json["plan"]["trainable_parameters"].get<int64_t>(), 0);
  EXPECT_EQ(result.json["training data"][0]["contexts"].get<int64_t>(), 40);
  EXPECT_FALSE(std::filesystem::exists(temp / "run"));
}

}  // namespace
}  // namespace ctxc
