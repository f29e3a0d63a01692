#include "train/run_folder.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;
using testing::expect_error;
using testing::TempDir;

TEST(RunFolder, RefusesWhatIsInUseOrNotEmpty) {
  const TempDir temp;
  const std::string path = (temp / "run").string();
  {
    const RunFolder folder(path, FolderUse::kNew);
    expect_error(ErrorKind::kBusy, "in use", [&] { RunFolder(path, FolderUse::kResume); });
    write_file_atomic(folder.file("config.yaml"), "a: 1\n");
  }
  const std::string hint = expect_error(ErrorKind::kBusy, "not empty (found config.yaml)",
                                        [&] { RunFolder(path, FolderUse::kNew); });
  EXPECT_NE(hint.find("--resume"), std::string::npos);
  expect_error(ErrorKind::kBusy, "is a file",
               [&] { RunFolder(path + "/config.yaml", FolderUse::kOverwrite); });
}

TEST(RunFolder, OverwritesOnlyWhatARunWrites) {
  const TempDir temp;
  const std::string path = (temp / "run").string();
  make_directories(path + "/checkpoints/step-00000001");
  write_file_atomic(path + "/log.jsonl", "{}\n");
  write_file_atomic(path + "/notes.txt", "mine\n");
  const RunFolder folder(path, FolderUse::kOverwrite);
  EXPECT_TRUE(fs::exists(path + "/log.jsonl"));
  folder.begin();
  EXPECT_FALSE(fs::exists(path + "/log.jsonl"));
  EXPECT_FALSE(fs::exists(path + "/checkpoints"));
  EXPECT_TRUE(fs::exists(path + "/notes.txt"));
}

TEST(RunFolder, ForgetsLinesThatAreComputedAgain) {
  const TempDir temp;
  const RunFolder folder((temp / "run").string(), FolderUse::kNew);
  folder.forget_lines_from("log.jsonl", 1);
  write_file_atomic(folder.file("log.jsonl"), "{\"step\":0}\n{\"step\":1,\"x\":2}\n{\"step\":2}\n{\"st");
  folder.forget_lines_from("log.jsonl", 2);
  EXPECT_EQ(read_file(folder.file("log.jsonl")), "{\"step\":0}\n{\"step\":1,\"x\":2}\n");
}

}  // namespace
}  // namespace ctxc
