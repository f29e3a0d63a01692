// Which state of a compile is kept and when it stops.
#include "train/selection.h"

#include <gtest/gtest.h>

namespace ctxc {
namespace {

CompileState state(int64_t step, double kl, double nll) {
  return {.step = step, .lambda = 1, .numbers = {kl, nll}, .memory = {}};
}

TEST(StateSelection, BestMemoryAmongThoseThatStayClose) {
  StateSelection selection;
  selection.offer(state(1, 1.0, 4.0));
  selection.offer(state(2, 0.5, 3.0));  // better in both: 1 goes
  EXPECT_EQ(selection.kept(), 1u);
  selection.offer(state(3, 0.55, 2.0));  // within 1.1 * 0.5 + 0.01
  EXPECT_EQ(selection.chosen().step, 3);
  selection.offer(state(4, 0.57, 1.0));  // beyond it, however good its memory
  EXPECT_EQ(selection.chosen().step, 3);
  EXPECT_EQ(selection.kept(), 2u);
  selection.offer(state(5, 0.40, 2.5));  // the bound falls to 0.45: 2 and 3 go for good
  EXPECT_EQ(selection.chosen().step, 5);
  EXPECT_EQ(selection.kept(), 1u);
  selection.offer(state(6, 0.44, 2.6));  // beaten in both
  EXPECT_EQ(selection.kept(), 1u);
}

TEST(ProgressWatch, StopsWhenNeitherNumberMoves) {
  ProgressWatch watch(2);
  EXPECT_FALSE(watch.check({1.0, 1.0}));
  EXPECT_FALSE(watch.check({0.995, 1.0}));  // less than 1 %
  EXPECT_FALSE(watch.check({1.2, 0.9}));    // the other one moved
  EXPECT_FALSE(watch.check({1.2, 0.9}));
  EXPECT_TRUE(watch.check({1.2, 0.895}));
  ProgressWatch patient(0);
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(patient.check({1, 1}));
}

}  // namespace
}  // namespace ctxc
