// A run that was interrupted and resumed is the uninterrupted one: same losses, same final bytes.
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/stop.h"
#include "throws.h"
#include "train/trainer.h"
#include "train_runs.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::losses_of;
using testing::TempDir;
using testing::tiny_config;

constexpr const char* kLast = "/checkpoints/step-00000008/";

std::string bytes_of_last(const std::string& run, const std::string& file) {
  return sha256_hex_of_file(run + kLast + file);
}

void expect_same_run(const std::string& a, const std::string& b) {
  EXPECT_EQ(losses_of(a), losses_of(b));
  for (const char* file : {"trainable.safetensors", "optimizer.safetensors"})
    EXPECT_EQ(bytes_of_last(a, file), bytes_of_last(b, file)) << file;
  EXPECT_EQ(read_file(a + "/samples.jsonl"), read_file(b + "/samples.jsonl"));
}

/// A copy of `run` as a crash after `step` would have left it: later checkpoints gone, the log too long.
void roll_back(const std::string& run, const std::string& copy, int64_t step) {
  fs::copy(run, copy, fs::copy_options::recursive);
  for (const auto& entry : fs::directory_iterator(copy + "/checkpoints"))
    if (entry.path().filename().string() != fmt::format("step-{:08}", step)) fs::remove_all(entry.path());
}

class Resume : public ::testing::TestWithParam<std::string> {};

TEST_P(Resume, GivesTheBitsOfAnUninterruptedRun) {
  const TempDir temp;
  const std::string a = (temp / "a").string(), b = (temp / "b").string();
  const bool train_base = GetParam() == "{name: full}";
  std::vector<std::string> keep_all = {"train.keep=9"};
  // The method's own terms too: their noise, schedule, running moments and queue must come back.
  if (GetParam().find("diffusion") != std::string::npos)
    keep_all.push_back("objective={ce: 1, kd: 0.5, kl: 1, agg: 0.1, denoise: 0.1, recon: 0.1}");
  if (GetParam().find("progressive") != std::string::npos)
    keep_all.push_back("objective={ce: 1, recon: 0.1, nce: 0.05}");
  // States from the disk are those that were computed.
  if (!train_base) keep_all.push_back("train.hidden_cache=" + (temp / "states").string());
  const TrainResult whole = Trainer(tiny_config(a, keep_all, GetParam(), train_base), FolderUse::kNew).run();
  EXPECT_EQ(whole.steps_done, 8);
  EXPECT_EQ(whole.signal, 0);
  EXPECT_EQ(losses_of(a).size(), 8u);
  roll_back(a, b, 3);
  EXPECT_EQ(Trainer(tiny_config(b, keep_all, GetParam(), train_base), FolderUse::kResume).run().steps_done,
            8);
  expect_same_run(a, b);
}

INSTANTIATE_TEST_SUITE_P(
    Methods, Resume,
    ::testing::Values("{name: full}", "{name: comprexit, window: 16, gate_width: 16, metric_width: 16}",
                      "{name: diffusion, chunk: 32, width: 32, heads: 2, latent_width: 8, "
                      "rho: 0.2, state: 4, kl_ramp: [2, 6]}",
                      "{name: progressive, chunk: 16, width: 32, heads: 2, state: 4, random_slices: 2}"),
    [](const auto& info) { return std::to_string(info.index); });

TEST(Trainer, LearnsAndKeepsTheBest) {
  const TempDir temp;
  const std::string run = (temp / "run").string();
  const TrainResult result = Trainer(tiny_config(run, {"train.steps=40"}), FolderUse::kNew).run();
  const std::vector<double> losses = losses_of(run);
  EXPECT_LT(losses.back(), 0.7 * losses.front());
  EXPECT_GE(result.best.step, 4);
  EXPECT_TRUE(fs::exists(fmt::format("{}/checkpoints/step-{:08}", run, result.best.step)));
  EXPECT_FALSE(read_file(run + "/samples.jsonl").empty());
  EXPECT_FALSE(fs::is_empty(run + "/tensorboard"));
}

TEST(Trainer, SumsGradientsOnlyWhenAsked) {
  const TempDir temp;
  const auto norm_of = [&](const std::string& rule) {
    const std::string run = (temp / rule).string();
    Trainer(tiny_config(run, {"train.steps=1", "train.gradient=" + rule}), FolderUse::kNew).run();
    double norm = 0;
    for_each_line(run + "/log.jsonl", [&](std::string_view line, int64_t) {
      const Json value = Json::parse(line);
      if (value.contains("grad_norm")) norm = value["grad_norm"];
    });
    return norm;
  };
  EXPECT_NEAR(norm_of("sum") / norm_of("mean"), 2, 1e-4);
}

constexpr const char* kDiffusion =
    "{name: diffusion, chunk: 16, width: 32, heads: 2, latent_width: 16, state: 4, rho: 0.5}";
constexpr const char* kProgressive = "{name: progressive, chunk: 16, width: 32, heads: 2, state: 4}";
constexpr const char* kDiffusionTerms = "objective={ce: 1, kl: 1, agg: 0.01, denoise: 0.1, recon: 0.1}";
constexpr const char* kProgressiveTerms = "objective={ce: 1, recon: 0.1, nce: 0.1}";

TEST(Trainer, GoesOnOverEmptyContexts) {
  const TempDir temp;
  std::ofstream((temp / "rows.jsonl").string())
      << R"({"context": "", "question": "Where?", "answers": ["Rome"]})"
      << "\n"
      << R"({"context": "Anna lives in Rome.", "question": "Who?", "answers": ["Anna"]})"
      << "\n";
  const std::string rows = fmt::format("[{{path: {}, format: qa_jsonl}}]", (temp / "rows.jsonl").string());
  for (const auto& [method, terms] :
       {std::pair{kDiffusion, kDiffusionTerms}, {kProgressive, kProgressiveTerms}}) {
    const std::string run = (temp / (method == kDiffusion ? "diffusion" : "progressive")).string();
    const RunConfig config =
        tiny_config(run,
                    {"data.train=" + rows, "data.valid=" + rows, "train.batch=1", "train.accumulate=1",
                     "train.steps=4", "train.valid_every=2", "train.samples=0", terms},
                    method, false);
    EXPECT_EQ(Trainer(config, FolderUse::kNew).run().steps_done, 4);
    EXPECT_EQ(losses_of(run).size(), 4U);
  }
}

TEST(Trainer, DecaysMapsAndNotTheVectorsThatReadingStartsFrom) {
  const TempDir temp;
  for (const auto& [method, terms, start, map] :
       {std::tuple{kDiffusion, kDiffusionTerms, "compressor.denoiser.state.initial",
                   "compressor.denoiser.state.gate.weight"},
        {kProgressive, kProgressiveTerms, "compressor.buffer.initial", "compressor.buffer.gate.weight"}}) {
    std::map<std::string, Tensor> trained[2];
    for (const int decayed : {0, 1}) {
      const std::string run = (temp / fmt::format("{}-{}", start, decayed)).string();
      Trainer(tiny_config(run,
                          {"train.steps=1", "train.samples=0", "train.valid_every=0", terms,
                           fmt::format("train.weight_decay={}", decayed * 0.5)},
                          method, false),
              FolderUse::kNew)
          .run();
      trained[decayed] = newest_checkpoint(run)->trainable();
    }
    EXPECT_TRUE(at::equal(trained[0].at(start), trained[1].at(start))) << start;
    EXPECT_FALSE(at::equal(trained[0].at(map), trained[1].at(map))) << map;
  }
}

TEST(Trainer, MeasuresAnObjectiveWithoutWeightInValidationOnly) {
  const TempDir temp;
  const std::string run = (temp / "run").string();
  const std::vector<std::string> watched = {"train.steps=2", "objective={ce: 1, kd: 0}"};
  Trainer(tiny_config(run, watched, "{name: mean_pool}", false), FolderUse::kNew).run();
  int64_t trained = 0, validated = 0;
  for_each_line(run + "/log.jsonl", [&](std::string_view line, int64_t) {
    const Json value = Json::parse(line);
    if (value.contains("terms")) {
      ++trained;
      EXPECT_FALSE(value["terms"].contains("kd"));
    } else if (value.contains("valid_terms")) {
      ++validated;
      EXPECT_GT(value["valid_terms"]["kd"], 0);
    }
  });
  EXPECT_EQ(trained, 2);
  EXPECT_GT(validated, 0);
}

TEST(Trainer, StartsFromAnotherRun) {
  const TempDir temp;
  const std::string a = (temp / "a").string(), b = (temp / "b").string();
  Trainer(tiny_config(a, {"train.steps=30"}), FolderUse::kNew).run();
  Trainer(tiny_config(b, {"train.steps=1", "train.init_from=" + a}), FolderUse::kNew).run();
  EXPECT_LT(losses_of(b).front(), 0.8 * losses_of(a).front());
  expect_error(ErrorKind::kInput, "backbone.model.norm.weight: shape (found [32], expected [16])", [&] {
    Trainer(tiny_config((temp / "c").string(), {"backbone.shape.hidden_size=16", "train.init_from=" + a}),
            FolderUse::kNew);
  });
}

TEST(Trainer, GoesOnAtAHigherRatioWithTheTensorsThatBothHave) {
  const TempDir temp;
  const std::string a = (temp / "a").string(), b = (temp / "b").string();
  const auto method = [](int64_t ratio) {
    return fmt::format(
        "{{name: diffusion, ratio: {}, chunk: 32, width: 16, heads: 2, latent_width: 8, rho: 0.1}}", ratio);
  };
  Trainer(tiny_config(a, {"train.steps=2"}, method(2), false), FolderUse::kNew).run();
  const std::vector<std::string> from = {"train.steps=1", "train.init_from=" + a};
  expect_error(ErrorKind::kInput, "missing compressor.down.level2",
               [&] { Trainer(tiny_config(b, from, method(4), false), FolderUse::kNew); });
  std::vector<std::string> partial = from;
  partial.push_back("train.init_partial=true");
  EXPECT_EQ(Trainer(tiny_config(b, partial, method(4), false), FolderUse::kNew).run().steps_done, 1);
  expect_error(ErrorKind::kInput, "shares no tensor", [&] {
    Trainer(tiny_config((temp / "c").string(), partial, "{name: prompt_tuning}", false), FolderUse::kNew);
  });
}

TEST(Trainer, RefusesToResumeSomethingElse) {
  const TempDir temp;
  const std::string run = (temp / "run").string();
  Trainer(tiny_config(run), FolderUse::kNew).run();
  expect_error(ErrorKind::kBusy, "not empty", [&] { Trainer(tiny_config(run), FolderUse::kNew); });
  expect_error(ErrorKind::kUsage, "train.lr",
               [&] { Trainer(tiny_config(run, {"train.lr=0.5"}), FolderUse::kResume); });
  EXPECT_EQ(Trainer(tiny_config(run), FolderUse::kResume).run().steps_done, 8);
}

TEST(Trainer, RefusesToResumeOnOtherData) {
  const TempDir temp;
  const std::string run = (temp / "run").string(), file = (temp / "qa.jsonl").string();
  const std::string line =
      R"({"context": "Notes: Anna lives in Rome.", "question": "Where?", "answers": ["Rome"]})"
      "\n";
  write_file_atomic(file, line + line);
  const std::vector<std::string> overrides = {"data.train=[{path: " + file + "}]", "train.steps=2",
                                              "train.batch=1"};
  Trainer(tiny_config(run, overrides), FolderUse::kNew).run();
  write_file_atomic(file, line + line + line);
  expect_error(ErrorKind::kInput, "not those of the checkpoint",
               [&] { Trainer(tiny_config(run, overrides), FolderUse::kResume); });
}

TEST(Trainer, StopsBeforeTheOptimizerWhenALossIsNotFinite) {
  const TempDir temp;
  const std::string run = (temp / "run").string();
  const std::vector<std::string> wild = {"train.lr=1e30", "train.warmup=0", "train.clip=0",
                                         "train.save_every=1"};
  const std::string hint = expect_error(ErrorKind::kNonFinite, "not finite",
                                        [&] { Trainer(tiny_config(run, wild), FolderUse::kNew).run(); });
  EXPECT_NE(hint.find("step-00000001"), std::string::npos) << hint;
  const Json report = read_json_file(run + "/nonfinite.json");
  EXPECT_EQ(report["step"].get<int64_t>(), 1);
  EXPECT_FALSE(report["examples"].empty());
  EXPECT_TRUE(report.contains("terms"));
  EXPECT_EQ(find_checkpoint(run).step, 1);
}

TEST(Trainer, RefusesWhatCannotTrain) {
  const TempDir temp;
  const std::string run = (temp / "run").string();
  expect_error(ErrorKind::kUsage, "nothing to train",
               [&] { Trainer(tiny_config(run, {}, "{name: full}", false), FolderUse::kNew); });
  expect_error(ErrorKind::kUsage, "data.train is empty",
               [&] { Trainer(tiny_config(run, {"data.train=[]"}), FolderUse::kNew); });
  expect_error(ErrorKind::kUsage, "run.device",
               [&] { Trainer(tiny_config(run, {"run.device=tpu9"}), FolderUse::kNew); });
  expect_error(ErrorKind::kUsage, "objective.kll",
               [&] { Trainer(tiny_config(run, {"objective={ce: 1, kll: 1}"}), FolderUse::kNew).run(); });
}

TEST(Trainer, CountsStepsByEpochs) {
  const TempDir temp;
  const TrainResult result =
      Trainer(tiny_config((temp / "run").string(), {"train.steps=0", "train.epochs=1.5"}), FolderUse::kNew)
          .run();
  EXPECT_EQ(result.steps_done, 8);  // 40 contexts / (4 * 2) = 5 steps an epoch, 7.5 rounded up
}

}  // namespace
}  // namespace ctxc
