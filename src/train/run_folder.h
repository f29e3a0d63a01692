// The folder a run writes into: locked while it runs, and never written over by accident.
#pragma once
#include <memory>
#include <string>

#include "core/file.h"

namespace ctxc {

enum class FolderUse { kNew, kResume, kOverwrite };

/// Holds the lock of <run> for its lifetime. kNew: Error kBusy if the folder holds anything. kResume: takes
/// it as it is.
class RunFolder {
 public:
  RunFolder(std::string path, FolderUse use);
  /// kOverwrite: removes what a run writes (config, logs, checkpoints, evaluation, export), nothing else.
  /// Called when all inputs have proved good.
  void begin() const;
  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  /// Drops the lines of a JSON-lines file whose "step" is `step` or later: they are computed again.
  void forget_lines_from(const std::string& name, int64_t step) const;

 private:
  std::string path_;
  FolderUse use_;
  std::unique_ptr<DirectoryLock> lock_;
};

}  // namespace ctxc
