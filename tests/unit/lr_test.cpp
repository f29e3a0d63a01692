#include "train/lr.h"

#include <gtest/gtest.h>

namespace ctxc {
namespace {

TEST(LearningRate, RisesThenFallsLinearly) {
  const LrSchedule schedule{.peak = 2, .kind = "linear", .warmup = 4, .steps = 12, .floor = 0};
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 0), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 3), 2);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 4), 2);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 8), 1);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 11), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 12), 0);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 99), 0);
}

TEST(LearningRate, CosineEndsAtItsFloor) {
  const LrSchedule schedule{.peak = 1, .kind = "cosine", .warmup = 0, .steps = 10, .floor = 0.2};
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 0), 1);
  EXPECT_NEAR(learning_rate(schedule, 5), 0.6, 1e-12);
  EXPECT_NEAR(learning_rate(schedule, 10), 0.2, 1e-12);
}

TEST(LearningRate, ConstantStaysAfterWarmup) {
  const LrSchedule schedule{.peak = 1, .kind = "constant", .warmup = 2, .steps = 4, .floor = 0};
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 0), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(schedule, 1000), 1);
}

TEST(LearningRate, WarmupIsAShareBelowOne) {
  EXPECT_EQ(warmup_steps(0.05, 763), 39);
  EXPECT_EQ(warmup_steps(0, 100), 0);
  EXPECT_EQ(warmup_steps(20, 100), 20);
}

}  // namespace
}  // namespace ctxc
