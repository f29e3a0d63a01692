#include "train/run_folder.h"

#include <filesystem>

#include "core/error.h"
#include "core/json.h"
#include "core/text.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

/// What a run and the programs that go on from it write.
constexpr const char* kOurs[] = {"config.yaml",    "log.jsonl",   "samples.jsonl", "latest",
                                 "nonfinite.json", "report.html", "checkpoints",   "tensorboard",
                                 "eval",           "export",      "memories",      "contexts.jsonl"};

std::vector<std::string> contents_of(const std::string& path) {
  std::vector<std::string> names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(path, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name != ".lock") names.push_back(name);
  }
  return names;
}

}  // namespace

RunFolder::RunFolder(std::string path, FolderUse use) : path_(std::move(path)), use_(use) {
  std::error_code ignored;
  CTXC_CHECK(!fs::exists(path_, ignored) || fs::is_directory(path_, ignored), ErrorKind::kBusy,
             "choose another run.dir", "{}: is a file (expected a folder)", path_);
  make_directories(path_);
  lock_ = std::make_unique<DirectoryLock>(path_);
  if (use != FolderUse::kNew) return;
  const std::vector<std::string> names = contents_of(path_);
  CTXC_CHECK(names.empty(), ErrorKind::kBusy,
             "--resume goes on with it, --overwrite starts anew, run.name=… takes another folder",
             "{}: the run folder is not empty (found {})", path_, join(names, ", "));
}

void RunFolder::begin() const {
  if (use_ != FolderUse::kOverwrite) return;
  for (const char* name : kOurs) {
    std::error_code error;
    fs::remove_all(fs::path(path_) / name, error);
    CTXC_CHECK(!error, ErrorKind::kDisk, "", "{}/{}: cannot be removed: {}", path_, name, error.message());
  }
}

void RunFolder::forget_lines_from(const std::string& name, int64_t step) const {
  const std::string path = file(name);
  if (!fs::exists(path)) return;
  std::string kept;
  for_each_line(path, [&](std::string_view line, int64_t) {
    // A killed process may leave half a line: it is of a step that is computed again.
    const Json value = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (value.is_object() && value.value("step", int64_t{-1}) < step) kept.append(line).push_back('\n');
  });
  write_file_atomic(path, kept);
}

}  // namespace ctxc
