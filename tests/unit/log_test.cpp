#include "core/log.h"

#include <pty.h>
#include <unistd.h>

#include <limits>

#include "core/error.h"
#include "core/file.h"
#include "testing.h"

namespace ctxc {
namespace {

template <class Body>
std::string stderr_of(Body body) {
  ::testing::internal::CaptureStderr();
  body();
  return ::testing::internal::GetCapturedStderr();
}

TEST(Log, QuietKeepsWarnings) {
  const auto both = [] {
    log_info("hello");
    log_warning("careful");
  };
  EXPECT_EQ(stderr_of(both), "hello\nwarning: careful\n");
  set_log_level(LogLevel::kQuiet);
  EXPECT_EQ(stderr_of(both), "warning: careful\n");
  set_log_level(LogLevel::kNormal);
}

TEST(Progress, PrintsPlainLinesOffATerminal) {
  const std::string text = stderr_of([] {
    Progress progress("step", 200, 0);
    progress.update(50, "loss 2.31");
    progress.update(100, "");
    progress.update(200, "loss 1.00");
  });
  EXPECT_TRUE(text.starts_with("step 50/200 (25 %) · loss 2.31\nstep 100/200 (50 %) · ETA 0.00 s\n")) << text;
  EXPECT_TRUE(text.ends_with("step 200/200 (100 %) · loss 1.00\n")) << text;
  EXPECT_EQ(text.find_first_of("\r\033"), std::string::npos);
}

TEST(Progress, KeepsBackWhatComesTooFastButNotTheLast) {
  const std::string text = stderr_of([] {
    Progress progress("doc", 0, 1000);
    for (int64_t i = 1; i <= 50; ++i) progress.update(i, "");
    progress.finish();
    progress.finish();
  });
  EXPECT_EQ(text, "doc 1\ndoc 50\n");
}

TEST(Progress, IsSilentWhenQuietOrUnused) {
  set_log_level(LogLevel::kQuiet);
  EXPECT_EQ(stderr_of([] { Progress("step", 2, 0).update(1, ""); }), "");
  set_log_level(LogLevel::kNormal);
  EXPECT_EQ(stderr_of([] { Progress("step", 2, 0); }), "");
}

/// What a terminal would be sent. (The body's output fits into the terminal's buffer.)
template <class Body>
std::string terminal_output_of(Body body) {
  int controller = -1, terminal = -1;
  if (openpty(&controller, &terminal, nullptr, nullptr, nullptr) != 0) return "no terminal";
  const int saved = dup(STDERR_FILENO);
  dup2(terminal, STDERR_FILENO);
  close(terminal);
  body();
  std::fputs("END", stderr);
  std::string text(4096, '\0');
  size_t size = 0;
  while (!text.substr(0, size).ends_with("END")) {
    const ssize_t got = read(controller, text.data() + size, text.size() - size);
    if (got <= 0) break;
    size += static_cast<size_t>(got);
  }
  dup2(saved, STDERR_FILENO);
  close(saved);
  close(controller);
  text.resize(size);
  return text;
}

TEST(Progress, RewritesItsLineOnATerminalAndMakesRoomForOthers) {
  const std::string text = terminal_output_of([] {
    Progress progress("step", 3);
    progress.update(1, "a");
    log_info("note");
    progress.update(2, "b");  // comes too fast
    progress.update(3, "c");
    progress.finish();
  });
  EXPECT_EQ(text,
            "\rstep 1/3 (33 %) · a\033[K"
            "\r\033[Knote\r\n"
            "\rstep 3/3 (100 %) · c\033[K\r\nEND");
}

TEST(JsonLines, StartAnewOrGoOn) {
  testing::TempDir folder;
  const std::string path = folder / "log.jsonl";
  JsonLinesFile(path, true).write({{"step", 1}, {"a", "x"}});
  JsonLinesFile(path, true).write({{"step", 2}, {"loss", std::numeric_limits<double>::quiet_NaN()}});
  EXPECT_EQ(read_file(path), "{\"step\":1,\"a\":\"x\"}\n{\"step\":2,\"loss\":null}\n");
  JsonLinesFile(path, false).write({{"step", 3}, {"text", "a\xff"}});
  EXPECT_EQ(read_file(path), "{\"step\":3,\"text\":\"a\uFFFD\"}\n");
}

TEST(JsonLines, HalfALineOfAKilledRunIsDropped) {
  testing::TempDir folder;
  const std::string path = folder / "log.jsonl";
  write_file_atomic(path, "{\"step\":1}\n{\"st");
  JsonLinesFile(path, true).write({{"step", 2}});
  EXPECT_EQ(read_file(path), "{\"step\":1}\n{\"step\":2}\n");
  write_file_atomic(path, "{\"st");
  JsonLinesFile(path, true).write({{"step", 1}});
  EXPECT_EQ(read_file(path), "{\"step\":1}\n");
}

TEST(JsonLines, EachLineIsThereAtOnce) {
  testing::TempDir folder;
  JsonLinesFile file(folder / "log.jsonl", false);
  file.write({{"step", 1}});
  EXPECT_EQ(read_file(folder / "log.jsonl"), "{\"step\":1}\n");
}

TEST(JsonLines, DiskErrors) {
  testing::TempDir folder;
  try {
    JsonLinesFile(folder / "absent/log.jsonl", false);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kDisk);
  }
  try {
    JsonLinesFile("/dev/full", false).write({{"step", 1}});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kDisk);
    EXPECT_TRUE(std::string(error.what()).starts_with("/dev/full: cannot be written")) << error.what();
  }
}

}  // namespace
}  // namespace ctxc
