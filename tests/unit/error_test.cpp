#include "core/error.h"

#include <gtest/gtest.h>

namespace ctxc {
namespace {

TEST(Error, RendersMessageAndHint) {
  const Error error(ErrorKind::kInput, "a.json:1:2: bad value (found 3, expected 4)", "change it");
  EXPECT_EQ(render(error), "error: a.json:1:2: bad value (found 3, expected 4)\nhint: change it\n");
  EXPECT_EQ(error.exit_code(), 3);
  EXPECT_EQ(render(Error(ErrorKind::kInternal, "x")), "error: x\n");
}

TEST(Error, CheckThrowsOnlyWhenItFails) {
  EXPECT_NO_THROW(CTXC_CHECK(1 + 1 == 2, ErrorKind::kUsage, "", "never"));
  try {
    CTXC_CHECK(1 + 1 == 3, ErrorKind::kUsage, "count again", "sum (found {}, expected {})", 2, 3);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_STREQ(error.what(), "sum (found 2, expected 3)");
    EXPECT_EQ(error.hint(), "count again");
  }
}

}  // namespace
}  // namespace ctxc
