#include "train/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "core/file.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;
using testing::TempDir;

CheckpointContents contents(int64_t step, double value = 1) {
  CheckpointContents result;
  result.step = step;
  result.config = "run: {name: x}\n";
  result.data_fingerprint = "abc";
  result.trainable = {{"compressor.w", at::full({3, 2}, value)}};
  result.optimizer = {{"compressor.w.exp_avg", at::full({3, 2}, 2 * value)},
                      {"compressor.w.step", at::full({}, 7.0)}};
  return result;
}

void damage(const fs::path& file) {
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(-1, std::ios::end);
  stream.put('\x7f');
}

TEST(Checkpoint, ComesBackAsItWas) {
  const TempDir run;
  CheckpointContents saved = contents(40);
  saved.best = {20, 0.125};
  const std::string folder = save_checkpoint(run.str(), saved, {});
  EXPECT_EQ(folder, (run / "checkpoints/step-00000040").string());
  EXPECT_EQ(read_file((run / "latest").string()), "step-00000040\n");
  const CheckpointFolder found = find_checkpoint(run.str());
  EXPECT_EQ(found.path, folder);
  EXPECT_EQ(found.step, 40);
  EXPECT_EQ(found.config, saved.config);
  EXPECT_EQ(found.data_fingerprint, "abc");
  EXPECT_EQ(found.best.step, 20);
  EXPECT_EQ(found.best.loss, 0.125);
  EXPECT_TRUE(at::equal(found.trainable().at("compressor.w"), saved.trainable[0].second));
  EXPECT_EQ(found.optimizer().at("compressor.w.step").item<double>(), 7);
  EXPECT_EQ(find_checkpoint(folder).step, 40);
}

TEST(Checkpoint, KeepsTheNewestAndTheBest) {
  const TempDir run;
  for (int64_t step = 10; step <= 50; step += 10) {
    CheckpointContents saved = contents(step);
    saved.best = {step >= 20 ? 20 : 10, 1};
    save_checkpoint(run.str(), saved, {.keep = 2, .keep_best = true});
  }
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"step-00000020", "step-00000040", "step-00000050"}));
}

TEST(Checkpoint, FallsBackFromADamagedOne) {
  const TempDir run;
  save_checkpoint(run.str(), contents(10), {});
  save_checkpoint(run.str(), contents(20), {});
  damage(run / "checkpoints/step-00000020/trainable.safetensors");
  ::testing::internal::CaptureStderr();
  const auto found = newest_checkpoint(run.str());
  const std::string warning = ::testing::internal::GetCapturedStderr();
  ASSERT_TRUE(found.has_value());
  EXPECT_EQ(found->step, 10);
  EXPECT_NE(warning.find("step-00000020"), std::string::npos) << warning;
  EXPECT_NE(warning.find("step-00000010"), std::string::npos) << warning;
  fs::remove(run / "checkpoints/step-00000010/optimizer.safetensors");
  testing::expect_error(ErrorKind::kInput, "damaged checkpoint", [&] { newest_checkpoint(run.str()); });
}

TEST(Checkpoint, RefusesWhatIsNone) {
  const TempDir run;
  EXPECT_FALSE(newest_checkpoint(run.str()).has_value());
  testing::expect_error(ErrorKind::kInput, "holds no checkpoint", [&] { find_checkpoint(run.str()); });
  testing::expect_error(ErrorKind::kInput, "holds no checkpoint",
                        [&] { find_checkpoint((run / "absent").string()); });
  const std::string folder = save_checkpoint(run.str(), contents(10), {});
  std::string state = read_file(folder + "/state.json");
  state.replace(state.find("\"format_version\": 1"), 19, "\"format_version\": 9");
  write_file_atomic(folder + "/state.json", state);
  testing::expect_error(ErrorKind::kInput, "found 9, expected 1", [&] { open_checkpoint(folder); });
  write_file_atomic(folder + "/state.json", "{");
  testing::expect_error(ErrorKind::kInput, "state.json", [&] { open_checkpoint(folder); });
}

TEST(Checkpoint, AFullDiskLeavesTheOldOneWhole) {
  const TempDir run;
  save_checkpoint(run.str(), contents(10), {});
  CheckpointContents large = contents(20);
  large.trainable[0].second = at::zeros({64, 1024});
  std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  rlimit limited = before;
  limited.rlim_cur = 64 << 10;
  setrlimit(RLIMIT_FSIZE, &limited);
  testing::expect_error(ErrorKind::kDisk, "trainable.safetensors",
                        [&] { save_checkpoint(run.str(), large, {}); });
  setrlimit(RLIMIT_FSIZE, &before);
  EXPECT_EQ(find_checkpoint(run.str()).step, 10);
  EXPECT_EQ(std::distance(fs::directory_iterator(run / "checkpoints"), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace ctxc
