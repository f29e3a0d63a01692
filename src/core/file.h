// Files: memory maps, atomic writes (temporary file, fsync, rename, fsync of the folder), locks, hashes.
// Missing or unreadable input is Error kInput; a full or read-only disk is kDisk; a folder in use is kBusy.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace ctxc {

/// A read-only private mapping of a whole file. Copies share the mapping; it goes with the last of them.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  std::span<const std::byte> bytes() const;
  std::string_view text() const;
  const std::string& path() const { return path_; }

 private:
  struct Mapping;
  std::string path_;
  std::shared_ptr<const Mapping> mapping_;
};

/// A file under construction: a temporary beside `path` that commit() moves into place, and that disappears
/// if commit() was not reached. write() throws kDisk with path, bytes and free space.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void commit();

 private:
  std::string path_, temporary_;
  int fd_ = -1;
};

void write_file_atomic(const std::string& path, std::string_view text);
std::string read_file(const std::string& path);

/// Held while a program writes into a folder; a second holder gets Error kBusy naming the process that has
/// it.
class DirectoryLock {
 public:
  explicit DirectoryLock(const std::string& directory);
  ~DirectoryLock();
  DirectoryLock(const DirectoryLock&) = delete;
  DirectoryLock& operator=(const DirectoryLock&) = delete;

 private:
  std::string path_;
  int fd_ = -1;
};

/// Makes the folder and its parents; kDisk if that fails.
void make_directories(const std::string& path);
/// Bytes an unprivileged process can still write at `path`.
uint64_t free_disk_bytes(const std::string& path);
/// directory/name, refused (kInput) if `name` is absolute or climbs out of `directory`.
std::string contained_join(const std::string& directory, const std::string& name);

std::string sha256_hex(std::span<const std::byte> bytes);
std::string sha256_hex(std::string_view text);
std::string sha256_hex_of_file(const std::string& path);
std::string md5_hex_of_file(const std::string& path);

/// Incremental SHA-256.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void update(std::span<const std::byte> bytes);
  void update(std::string_view text);
  std::string hex();  ///< ends it

 private:
  void* context_;
};

/// Calls `line(text, number)` for every line of a plain or gzip file (recognised by content), without its
/// end. Memory stays bounded by the longest line. `-` reads standard input. A broken gzip stream is Error
/// kInput.
void for_each_line(const std::string& path, const std::function<void(std::string_view, int64_t)>& line);

}  // namespace ctxc
