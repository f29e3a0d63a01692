// The one exception type of ctxc. Its kind is the exit code of the programs; message and hint are what a user
// reads:
//   error: file:line:col: what is wrong (found X, expected Y)
//   hint: what to do
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace ctxc {

/// Kinds of failure; the value is the exit code (130/143 belong to signals, see core/stop.h).
enum class ErrorKind : int {
  kInternal = 1,   ///< a bug of ours
  kUsage = 2,      ///< command line or configuration
  kInput = 3,      ///< a file that is missing, broken or does not fit
  kMemory = 4,     ///< out of memory
  kNonFinite = 5,  ///< loss or gradient is NaN or infinite
  kBusy = 6,       ///< output folder in use or not empty
  kDisk = 7,       ///< disk full or not writable
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, std::string message, std::string hint = "")
      : std::runtime_error(std::move(message)), kind_(kind), hint_(std::move(hint)) {}
  ErrorKind kind() const { return kind_; }
  const std::string& hint() const { return hint_; }
  int exit_code() const { return static_cast<int>(kind_); }

 private:
  ErrorKind kind_;
  std::string hint_;
};

/// "error: …\nhint: …\n" as the programs print it on stderr (no hint line when there is none).
std::string render(const Error& error);

}  // namespace ctxc

/// Throws Error{kind, fmt::format(message...), hint} unless `condition` holds.
#define CTXC_CHECK(condition, kind, hint, ...)                                       \
  do {                                                                               \
    if (!(condition)) throw ::ctxc::Error((kind), fmt::format(__VA_ARGS__), (hint)); \
  } while (false)
