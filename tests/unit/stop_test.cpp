#include "core/stop.h"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>

namespace ctxc {
namespace {

TEST(Stop, ASignalSetsTheFlag) {
  install_stop_handlers();
  EXPECT_FALSE(stop_requested());
  std::raise(SIGTERM);
  EXPECT_TRUE(stop_requested());
  EXPECT_EQ(stop_signal(), SIGTERM);
  reset_stop_for_test();
  std::raise(SIGINT);
  EXPECT_EQ(stop_signal(), SIGINT);
  reset_stop_for_test();
  EXPECT_EQ(stop_signal(), 0);
}

TEST(Stop, TheSecondSignalEndsTheProgram) {
  const auto child = [](int second) {
    install_stop_handlers();
    std::raise(SIGTERM);
    std::fputs("still here\n", stderr);
    std::raise(second);
    std::fputs("too far\n", stderr);
    std::_Exit(1);
  };
  EXPECT_EXIT(child(SIGTERM), ::testing::ExitedWithCode(143), "^still here\n$");
  EXPECT_EXIT(child(SIGINT), ::testing::ExitedWithCode(130), "^still here\n$");
}

}  // namespace
}  // namespace ctxc
