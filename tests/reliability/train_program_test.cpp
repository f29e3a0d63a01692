// ctxc-train as a user meets it: exit codes, signals in the middle of a run, what it leaves behind.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>

#include "train/checkpoint.h"
#include "train_runs.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;
using testing::losses_of;
using testing::TempDir;
using testing::tiny_run;

class Program {
 public:
  Program(std::vector<std::string> arguments, const std::string& output) {
    arguments.insert(arguments.begin(), testing::program("ctxc-train"));
    pid_ = fork();
    if (pid_ != 0) return;
    const int fd = open(output.c_str(), O_CREAT | O_WRONLY | O_TRUNC, 0644);
    dup2(fd, 1);
    dup2(fd, 2);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    execv(argv[0], argv.data());
    _exit(127);
  }
  void signal(int number) const { kill(pid_, number); }
  /// Exit code, or -1 if a signal ended it.
  int wait() {
    int status = 0;
    waitpid(pid_, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }

 private:
  pid_t pid_;
};

class TrainProgram : public ::testing::Test {
 protected:
  int run(std::vector<std::string> arguments) { return Program(std::move(arguments), output_path()).wait(); }
  std::string output_path() const { return (temp_ / "output").string(); }
  std::string output() const { return read_file(output_path()); }
  std::string folder(const std::string& name) const { return (temp_ / name).string(); }
  std::string config(const std::string& name) const {
    const std::string path = folder(name + ".yaml");
    write_file_atomic(path, tiny_run(folder(name)));
    return path;
  }
  /// Waits until the run has logged `lines` lines.
  void wait_for_lines(const std::string& name, size_t lines) const {
    for (int i = 0; i < 6000; ++i) {
      std::error_code ignored;
      const std::string log = folder(name) + "/log.jsonl";
      if (fs::exists(log, ignored)) {
        const std::string text = read_file(log);
        if (static_cast<size_t>(std::count(text.begin(), text.end(), '\n')) >= lines) return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    FAIL() << "the run logs nothing: " << output();
  }
  const TempDir temp_;
};

TEST_F(TrainProgram, AnswersWithItsExitCodes) {
  const std::string file = config("a");
  EXPECT_EQ(run({file, "--print-config"}), 0);
  EXPECT_NE(output().find("save_every: 3"), std::string::npos);
  EXPECT_EQ(run({file, "train.lrr=1"}), 2);
  EXPECT_NE(output().find("hint: "), std::string::npos) << output();
  EXPECT_EQ(run({folder("absent.yaml")}), 3) << output();
  EXPECT_EQ(run({}), 2);
  EXPECT_EQ(run({file, "--resume", "--overwrite"}), 2);
  EXPECT_EQ(run({"--help", "train.lr"}), 0);
  EXPECT_NE(output().find("peak learning rate"), std::string::npos);
  EXPECT_EQ(run({"--list", "compressors"}), 0);
  EXPECT_NE(output().find("comprexit"), std::string::npos);
  EXPECT_EQ(run({file, "--dry-run"}), 0) << output();
  EXPECT_NE(output().find("supervised: ["), std::string::npos);
  EXPECT_FALSE(fs::exists(folder("a")));
  EXPECT_EQ(run({file, "data.train=[{path: absent.jsonl}]"}), 3) << output();
  EXPECT_EQ(run({file, "--quiet", "--json"}), 0) << output();
  EXPECT_EQ(Json::parse(output())["steps"].get<int64_t>(), 8);
  EXPECT_EQ(run({file}), 6) << output();
  EXPECT_EQ(run({file, "--overwrite", "train.lr=1e30", "train.clip=0"}), 5) << output();
}

/// diffusion.md section 12, point 15: a method that learns anything knows eight passages by heart.
TEST_F(TrainProgram, EightPassagesAreLearnt) {
  const fs::path root = testing::root();
  for (const std::string method : {"diffusion", "progressive"}) {
    const std::string passages =
        "path: tiny-facts, format: synthetic, max_samples: 8, synthetic: {count: 8, split: train, "
        "people_min: 1, "
        "people_max: 1, facts_min: 3, facts_max: 6, filler: 3, wording: question}";
    const int code = run({(root / ("configs/" + method + "_tiny.yaml")).string(), "run.dir=" + folder(method),
                          "backbone.path=" + (root / "models/tiny-facts").string(),
                          "data.train=[{" + passages + "}]", "data.valid=[{" + passages + ", name: same}]",
                          "objective={ce: 1}", "train.batch=8", "train.steps=60", "train.valid_every=60",
                          "train.lr=3e-3", "train.schedule=constant", "train.warmup=10", "train.samples=0"});
    ASSERT_EQ(code, 0) << output();
    double after = 0;
    for_each_line(folder(method) + "/log.jsonl", [&](std::string_view text, int64_t number) {
      const Json line = parse_json(text, "log.jsonl", number);
      if (line.contains("valid_loss")) after = line["valid_loss"].get<double>();
    });
    const double before = losses_of(folder(method)).at(0);
    EXPECT_GT(before, 1) << method;  // nats a token of the answers: the base cannot know them
    EXPECT_LT(after, 0.1 * before) << method;
  }
}

TEST_F(TrainProgram, ASignalSavesAndResumeFinishesTheSameRun) {
  const std::string whole = config("whole"), cut = config("cut");
  const std::vector<std::string> steps = {"train.steps=400", "train.save_every=0", "train.valid_every=0"};
  std::vector<std::string> arguments = {whole};
  arguments.insert(arguments.end(), steps.begin(), steps.end());
  ASSERT_EQ(run(arguments), 0) << output();
  arguments[0] = cut;
  Program program(arguments, output_path());
  wait_for_lines("cut", 20);
  program.signal(SIGTERM);
  ASSERT_EQ(program.wait(), 143) << output();
  EXPECT_NE(output().find("--resume"), std::string::npos) << output();
  EXPECT_GE(find_checkpoint(folder("cut")).step, 20);
  EXPECT_LT(find_checkpoint(folder("cut")).step, 400);
  ASSERT_EQ(run({"--resume", folder("cut")}), 0) << output();
  EXPECT_EQ(losses_of(folder("whole")), losses_of(folder("cut")));
  for (const char* file : {"trainable.safetensors", "optimizer.safetensors"})
    EXPECT_EQ(sha256_hex_of_file(folder("whole") + "/checkpoints/step-00000400/" + file),
              sha256_hex_of_file(folder("cut") + "/checkpoints/step-00000400/" + file));
}

TEST_F(TrainProgram, AnInterruptExits130) {
  const std::string file = config("a");
  Program program({file, "train.steps=100000"}, output_path());
  wait_for_lines("a", 3);
  program.signal(SIGINT);
  EXPECT_EQ(program.wait(), 130) << output();
  EXPECT_GE(find_checkpoint(folder("a")).step, 3);
}

TEST_F(TrainProgram, AKilledRunGoesOnFromItsCheckpoint) {
  const std::string file = config("a");
  Program program({file, "train.steps=100000", "train.valid_every=0"}, output_path());
  wait_for_lines("a", 8);
  Program second({file, "--resume", "train.steps=100000"}, folder("output2"));
  EXPECT_EQ(second.wait(), 6);
  program.signal(SIGKILL);
  EXPECT_EQ(program.wait(), -1);
  EXPECT_GE(find_checkpoint(folder("a")).step, 3);
}

}  // namespace
}  // namespace ctxc
