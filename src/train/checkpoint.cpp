#include "train/checkpoint.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/cli.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "model/weights.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;
constexpr const char* kTrainable = "trainable.safetensors";
constexpr const char* kOptimizer = "optimizer.safetensors";
constexpr uint64_t kDiskReserve = 1 << 20;  // state.json, log lines

std::string folder_name(int64_t step) {
  return fmt::format("step-{:08}", step);
}

fs::path checkpoints_of(const std::string& run_folder) {
  return fs::path(run_folder) / "checkpoints";
}

void sync_folder(const fs::path& folder) {
  const int fd = open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;  // some file systems have no such thing; the files themselves are synced
  fsync(fd);
  close(fd);
}

/// A folder that disappears unless release() was reached.
class FolderUnderConstruction {
 public:
  explicit FolderUnderConstruction(fs::path path) : path_(std::move(path)) {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
    make_directories(path_.string());
  }
  ~FolderUnderConstruction() {
    std::error_code ignored;
    if (!released_) fs::remove_all(path_, ignored);
  }
  FolderUnderConstruction(const FolderUnderConstruction&) = delete;
  FolderUnderConstruction& operator=(const FolderUnderConstruction&) = delete;
  const fs::path& path() const { return path_; }
  void release() { released_ = true; }

 private:
  fs::path path_;
  bool released_ = false;
};

/// Contiguous copies on the CPU where a tensor is not already one.
NamedTensors for_writing(const NamedTensors& tensors) {
  NamedTensors result;
  for (const auto& [name, tensor] : tensors)
    result.emplace_back(name, tensor.detach().to(at::kCPU).contiguous());
  std::sort(result.begin(), result.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  return result;
}

std::string state_text(const CheckpointContents& contents, const fs::path& folder) {
  OrderedJson state;
  state["format_version"] = kCheckpointFormat;
  state["step"] = contents.step;
  state["data_fingerprint"] = contents.data_fingerprint;
  state["best"] = contents.best.step < 0
                      ? OrderedJson(nullptr)
                      : OrderedJson{{"step", contents.best.step}, {"loss", contents.best.loss}};
  state["versions"] = OrderedJson{{"ctxc", std::string(trim(version_text(false)))}};
  if (!contents.backbone.is_null()) state["backbone"] = contents.backbone;
  for (const char* file : {kTrainable, kOptimizer})
    state["files"][file] = sha256_hex_of_file((folder / file).string());
  state["config"] = contents.config;
  return state.dump(1) + "\n";
}

/// Step folders of a run, newest first.
std::vector<std::pair<int64_t, fs::path>> step_folders(const std::string& run_folder) {
  std::vector<std::pair<int64_t, fs::path>> result;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(checkpoints_of(run_folder), ignored)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with("step-") || name.size() < 6) continue;
    if (!std::all_of(name.begin() + 5, name.end(), [](unsigned char c) { return std::isdigit(c); })) continue;
    result.emplace_back(std::stoll(name.substr(5)), entry.path());
  }
  std::sort(result.begin(), result.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  return result;
}

void apply_retention(const std::string& run_folder, const BestSoFar& best, const Retention& retention) {
  int64_t kept = 0;
  for (const auto& [step, path] : step_folders(run_folder)) {
    if (kept++ < retention.keep || (retention.keep_best && step == best.step)) continue;
    std::error_code ignored;  // a folder that cannot be removed does no harm
    fs::remove_all(path, ignored);
  }
}

}  // namespace

uint64_t checkpoint_bytes(const CheckpointContents& contents) {
  uint64_t total = 0;
  for (const auto* tensors : {&contents.trainable, &contents.optimizer})
    for (const auto& [name, tensor] : *tensors) total += tensor.nbytes() + 128;
  return total;
}

std::string save_checkpoint(const std::string& run_folder, const CheckpointContents& contents,
                            const Retention& retention) {
  const fs::path parent = checkpoints_of(run_folder);
  make_directories(parent.string());
  const uint64_t needed = checkpoint_bytes(contents) + kDiskReserve, free = free_disk_bytes(parent.string());
  CTXC_CHECK(free >= needed, ErrorKind::kDisk,
             "free space there, or lower train.keep; then go on with --resume",
             "{}: no room for a checkpoint (found {} free, expected {})", parent.string(), human_bytes(free),
             human_bytes(needed));
  const fs::path target = parent / folder_name(contents.step);
  FolderUnderConstruction folder(parent / (".new-" + folder_name(contents.step)));
  save_tensors((folder.path() / kTrainable).string(), for_writing(contents.trainable), {{"format", "ctxc"}});
  save_tensors((folder.path() / kOptimizer).string(), for_writing(contents.optimizer), {{"format", "ctxc"}});
  write_file_atomic((folder.path() / "state.json").string(), state_text(contents, folder.path()));
  sync_folder(folder.path());
  std::error_code error;
  fs::remove_all(target, error);  // only a damaged one, or one of a step that is done anew, can stand there
  fs::rename(folder.path(), target, error);
  CTXC_CHECK(!error, ErrorKind::kDisk, "", "{}: cannot be put in place: {}", target.string(),
             error.message());
  folder.release();
  sync_folder(parent);
  write_file_atomic((fs::path(run_folder) / "latest").string(), folder_name(contents.step) + "\n");
  apply_retention(run_folder, contents.best, retention);
  return target.string();
}

CheckpointFolder open_checkpoint(const std::string& folder) {
  const fs::path path(folder);
  const std::string origin = (path / "state.json").string();
  const Json state = read_json_file(origin);
  const int64_t version = json_at<int64_t>(state, "format_version", origin);
  CTXC_CHECK(version == kCheckpointFormat, ErrorKind::kInput, "use the version of ctxc that wrote it",
             "{}: unknown checkpoint format (found {}, expected {})", origin, version, kCheckpointFormat);
  CheckpointFolder result;
  result.path = folder;
  result.step = json_at<int64_t>(state, "step", origin);
  result.config = json_at<std::string>(state, "config", origin);
  result.data_fingerprint = json_at<std::string>(state, "data_fingerprint", origin);
  if (state.contains("best") && state["best"].is_object())
    result.best = {json_at<int64_t>(state["best"], "step", origin),
                   json_at<double>(state["best"], "loss", origin)};
  const Json files = json_at<Json>(state, "files", origin);
  for (const char* file : {kTrainable, kOptimizer}) {
    const std::string expected = json_at<std::string>(files, file, origin), name = (path / file).string();
    const std::string found = sha256_hex_of_file(name);
    CTXC_CHECK(found == expected, ErrorKind::kInput, "the file is damaged: use another checkpoint",
               "{}: SHA-256 differs from state.json (found {}, expected {})", name, found, expected);
  }
  return result;
}

std::map<std::string, Tensor> CheckpointFolder::trainable() const {
  return load_tensors(path + "/" + kTrainable);
}
std::map<std::string, Tensor> CheckpointFolder::optimizer() const {
  return load_tensors(path + "/" + kOptimizer);
}

std::optional<CheckpointFolder> newest_checkpoint(const std::string& run_folder) {
  const auto folders = step_folders(run_folder);
  std::string damaged;
  for (const auto& [step, path] : folders) {
    try {
      CheckpointFolder found = open_checkpoint(path.string());
      if (!damaged.empty()) log_warning(fmt::format("{}; going on from {}", damaged, found.path));
      return found;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kInput) throw;
      damaged += fmt::format("{}damaged checkpoint {} ({})", damaged.empty() ? "" : "; ", path.string(),
                             error.what());
    }
  }
  if (folders.empty()) return std::nullopt;
  throw Error(ErrorKind::kInput, damaged, "no checkpoint of this run is whole: start anew with --overwrite");
}

CheckpointFolder find_checkpoint(const std::string& path) {
  if (fs::exists(fs::path(path) / "state.json")) return open_checkpoint(path);
  std::optional<CheckpointFolder> newest = newest_checkpoint(path);
  CTXC_CHECK(newest.has_value(), ErrorKind::kInput,
             "name a run folder or one of its checkpoints/step-… folders", "{}: holds no checkpoint", path);
  return *newest;
}

}  // namespace ctxc
