#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"

namespace ctxc {
namespace {

/// The file behind `fd` is still the one at `path`: its last holder did not remove it between open() and
/// flock().
bool still_there(int fd, const std::string& path) {
  struct stat held = {}, named = {};
  return fstat(fd, &held) == 0 && stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
         held.st_dev == named.st_dev;
}

std::string holder_of(int fd) {
  char text[32] = {};
  const ssize_t size = pread(fd, text, sizeof(text) - 1, 0);
  const std::string_view pid = trim({text, static_cast<size_t>(size > 0 ? size : 0)});
  return pid.empty() ? "another process" : fmt::format("process {}", pid);
}

}  // namespace

DirectoryLock::DirectoryLock(const std::string& directory) {
  make_directories(directory);
  path_ = directory + "/.lock";
  do {
    if (fd_ >= 0) close(fd_);
    fd_ = open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    CTXC_CHECK(fd_ >= 0, ErrorKind::kDisk, "choose an output folder you can write to",
               "{}: cannot be created: {}", path_, std::strerror(errno));
    int status;
    while ((status = flock(fd_, LOCK_EX | LOCK_NB)) != 0 && errno == EINTR) {
    }
    if (status == 0) continue;
    const int error = errno;
    const std::string holder = holder_of(fd_);
    close(fd_);
    CTXC_CHECK(error == EWOULDBLOCK, ErrorKind::kDisk, "choose a folder on a file system with locks",
               "{}: cannot be locked: {}", path_, std::strerror(error));
    throw Error(ErrorKind::kBusy, fmt::format("{}: in use by {}", directory, holder),
                "wait for it, stop it, or choose another output folder");
  } while (!still_there(fd_, path_));
  const std::string pid = fmt::format("{}\n", getpid());
  // The number only helps people; the lock holds without it (on a full disk, say).
  if (ftruncate(fd_, 0) == 0) static_cast<void>(pwrite(fd_, pid.data(), pid.size(), 0) > 0);
}

DirectoryLock::~DirectoryLock() {
  unlink(path_.c_str());
  close(fd_);
}

}  // namespace ctxc
