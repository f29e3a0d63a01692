// expect_error: what every test of a bad input asserts.
#pragma once
#include <gtest/gtest.h>

#include <string>

#include "core/error.h"

namespace ctxc::testing {

/// Calls `action`; fails unless it throws Error of this kind whose message contains `part`. Returns the
/// error's hint.
template <class Action>
std::string expect_error(ErrorKind kind, const std::string& part, Action&& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.kind()), static_cast<int>(kind)) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos)
        << "message: " << error.what() << "\npart: " << part;
    return error.hint();
  }
  ADD_FAILURE() << "nothing was thrown, expected: " << part;
  return "";
}

}  // namespace ctxc::testing
