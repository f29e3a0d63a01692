// What tests share: where the project and its programs are, temporary folders, and the ../shared switch.
#pragma once
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace ctxc::testing {

/// The project's root folder.
inline std::filesystem::path root() {
  const char* root = std::getenv("CTXC_ROOT");
  return root ? root : std::filesystem::current_path();
}

/// A program of this build.
inline std::string program(const std::string& name) {
  const char* bin = std::getenv("CTXC_BIN");
  return (bin ? std::filesystem::path(bin) : root() / "build/release/bin") / name;
}

/// Extra data beside the project; empty if absent.
inline std::filesystem::path shared() {
  const char* dir = std::getenv("CTXC_SHARED");
  const std::filesystem::path path = dir ? std::filesystem::path(dir) : root() / "../shared";
  return std::filesystem::is_directory(path / "fixtures") ? std::filesystem::canonical(path)
                                                          : std::filesystem::path();
}

/// A fresh folder that goes with the object.
class TempDir {
 public:
  TempDir() {
    std::string name = (std::filesystem::temp_directory_path() / "ctxc-test-XXXXXX").string();
    if (!mkdtemp(name.data())) std::abort();
    path_ = name;
  }
  ~TempDir() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }
  std::string str() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

}  // namespace ctxc::testing

/// Skips the running test, with the reason, where ../shared is not there.
#define CTXC_NEEDS_SHARED()            \
  if (ctxc::testing::shared().empty()) \
  GTEST_SKIP() << "../shared is absent: extra parity data, not part of the project"
