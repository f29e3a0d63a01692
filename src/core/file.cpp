#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/text.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail_disk(const std::string& path, const std::string& what, int error) {
  const bool full = error == ENOSPC || error == EDQUOT;
  throw Error(
      ErrorKind::kDisk,
      fmt::format("{}: {}: {} ({} free)", path, what, std::strerror(error),
                  human_bytes(free_disk_bytes(path))),
      full ? "free some space, or choose another output folder" : "choose an output folder you can write to");
}

std::string parent_of(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

}  // namespace

struct MappedFile::Mapping {
  void* address = nullptr;
  size_t size = 0;
  ~Mapping() {
    if (address) munmap(address, size);
  }
};

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  CTXC_CHECK(fd >= 0, ErrorKind::kInput, "", "{}: cannot be read: {}", path, std::strerror(errno));
  struct stat status = {};
  const bool regular = fstat(fd, &status) == 0 && S_ISREG(status.st_mode);
  auto mapping = std::make_shared<Mapping>();
  int error = 0;
  if (regular && status.st_size > 0) {
    void* address = mmap(nullptr, static_cast<size_t>(status.st_size), PROT_READ, MAP_PRIVATE, fd, 0);
    if (address == MAP_FAILED) {
      error = errno;
    } else {
      mapping->address = address;
      mapping->size = static_cast<size_t>(status.st_size);
    }
  }
  close(fd);
  CTXC_CHECK(regular, ErrorKind::kInput, "", "{}: cannot be mapped (found a {}, expected a regular file)",
             path, S_ISDIR(status.st_mode) ? "folder" : "pipe or device");
  CTXC_CHECK(error == 0, ErrorKind::kInput, "", "{}: cannot be mapped: {}", path, std::strerror(error));
  mapping_ = std::move(mapping);
}

std::span<const std::byte> MappedFile::bytes() const {
  return {static_cast<const std::byte*>(mapping_->address), mapping_->size};
}

std::string_view MappedFile::text() const {
  return {static_cast<const char*>(mapping_->address), mapping_->size};
}

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)) {
  static std::atomic<int> serial{0};
  std::error_code ignored;
  // Through a link its target is replaced; the link itself stays.
  if (fs::is_symlink(path_, ignored) && fs::exists(path_, ignored)) path_ = fs::canonical(path_).string();
  CTXC_CHECK(!fs::exists(path_, ignored) || fs::is_regular_file(path_, ignored), ErrorKind::kDisk,
             "choose another output path",
             "{}: cannot be replaced (found a {}, expected a regular file or nothing)", path_,
             fs::is_directory(path_, ignored) ? "folder" : "pipe or device");
  temporary_ = fmt::format("{}.tmp-{}-{}", path_, getpid(), serial++);
  fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (fd_ < 0) fail_disk(path_, "cannot be created", errno);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  CTXC_CHECK(fd_ >= 0, ErrorKind::kInternal, "", "{}: written to after commit()", path_);
  const size_t total = bytes.size();
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_disk(path_, fmt::format("cannot write {}", human_bytes(total)), errno);
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

void AtomicFile::write(std::string_view text) {
  write(std::as_bytes(std::span(text)));
}

void AtomicFile::commit() {
  CTXC_CHECK(fd_ >= 0, ErrorKind::kInternal, "", "{}: commit() called twice", path_);
  if (fsync(fd_) != 0) fail_disk(path_, "cannot be written out", errno);
  if (rename(temporary_.c_str(), path_.c_str()) != 0) fail_disk(path_, "cannot be put in place", errno);
  const int error = close(std::exchange(fd_, -1)) == 0 ? 0 : errno;
  if (error) fail_disk(path_, "cannot be closed", error);
  // The rename itself lasts only once the folder is on disk. Some file systems cannot sync a folder (EINVAL).
  const int folder = open(parent_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0) return;
  const int sync_error = fsync(folder) == 0 ? 0 : errno;
  close(folder);
  if (sync_error && sync_error != EINVAL) fail_disk(path_, "cannot sync its folder", sync_error);
}

void write_file_atomic(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

std::string read_file(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  CTXC_CHECK(fd >= 0, ErrorKind::kInput, "", "{}: cannot be read: {}", path, std::strerror(errno));
  struct stat status = {};
  std::string text;
  if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode)) text.resize(static_cast<size_t>(status.st_size));
  size_t size = 0;
  ssize_t got;
  do {
    if (size == text.size()) text.resize(size + 65536);
    got = read(fd, text.data() + size, text.size() - size);
    if (got > 0) size += static_cast<size_t>(got);
  } while (got > 0 || (got < 0 && errno == EINTR));
  const int error = errno;
  close(fd);
  CTXC_CHECK(got == 0, ErrorKind::kInput, "", "{}: cannot be read: {}", path, std::strerror(error));
  text.resize(size);
  return text;
}

void make_directories(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error || !fs::is_directory(path))
    fail_disk(path, "cannot make the folder", error ? error.value() : ENOTDIR);
}

uint64_t free_disk_bytes(const std::string& path) {
  fs::path folder = fs::absolute(path.empty() ? "." : path);
  std::error_code ignored;
  while (!fs::exists(folder, ignored) && folder.has_relative_path()) folder = folder.parent_path();
  struct statvfs status = {};
  return statvfs(folder.c_str(), &status) == 0 ? uint64_t{status.f_bavail} * status.f_frsize : 0;
}

std::string contained_join(const std::string& directory, const std::string& name) {
  const fs::path relative(name);
  int depth = 0;
  bool inside = !name.empty() && !relative.is_absolute() && name.find('\0') == std::string::npos;
  for (const fs::path& part : relative) {
    depth += part == ".." ? -1 : part == "." || part.empty() ? 0 : 1;
    inside = inside && depth >= 0;
  }
  CTXC_CHECK(inside && depth > 0, ErrorKind::kInput, "",
             "{}: a file name leaves its folder (found '{}', expected a path below it)", directory, name);
  return (fs::path(directory) / relative).string();
}

}  // namespace ctxc
