#include "core/file.h"

#include <sys/resource.h>
#include <unistd.h>

#include <csignal>

#include "core/error.h"
#include "testing.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

template <class Body>
Error error_of(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error";
  return Error(ErrorKind::kInternal, "");
}

std::vector<std::string> names_in(const testing::TempDir& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder.str())) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}
using Names = std::vector<std::string>;

TEST(MappedFile, SharesItsMapping) {
  testing::TempDir folder;
  write_file_atomic(folder / "a", "hello");
  std::unique_ptr<MappedFile> copy;
  {
    const MappedFile file(folder / "a");
    copy = std::make_unique<MappedFile>(file);
    EXPECT_EQ(file.bytes().size(), 5u);
  }
  EXPECT_EQ(copy->text(), "hello");
  EXPECT_EQ(copy->path(), (folder / "a").string());
}

TEST(MappedFile, EmptyMissingAndFolder) {
  testing::TempDir folder;
  write_file_atomic(folder / "empty", "");
  EXPECT_EQ(MappedFile(folder / "empty").text(), "");
  EXPECT_EQ(error_of([&] { MappedFile(folder / "absent"); }).kind(), ErrorKind::kInput);
  const Error error = error_of([&] { MappedFile{folder.str()}; });
  EXPECT_EQ(error.kind(), ErrorKind::kInput);
  EXPECT_NE(std::string(error.what()).find("found a folder"), std::string::npos) << error.what();
  EXPECT_THROW(MappedFile("/dev/null"), Error);
}

TEST(ReadFile, WholeFilesAndStreamsWithoutSize) {
  testing::TempDir folder;
  const std::string text(200'000, 'x');
  write_file_atomic(folder / "a", text);
  EXPECT_EQ(read_file(folder / "a"), text);
  EXPECT_EQ(read_file("/dev/null"), "");
  EXPECT_TRUE(read_file("/proc/self/status").starts_with("Name:"));
  EXPECT_EQ(error_of([&] { read_file(folder / "absent"); }).kind(), ErrorKind::kInput);
  EXPECT_EQ(error_of([&] { read_file(folder.str()); }).kind(), ErrorKind::kInput);
}

TEST(AtomicFile, AppearsOnlyWithCommit) {
  testing::TempDir folder;
  {
    AtomicFile file(folder / "a");
    file.write("one ");
    file.write("two");
    EXPECT_FALSE(fs::exists(folder / "a"));
    file.commit();
    EXPECT_EQ(read_file(folder / "a"), "one two");
    EXPECT_THROW(file.write("three"), Error);
    EXPECT_THROW(file.commit(), Error);
  }
  EXPECT_EQ(names_in(folder), Names{"a"});
}

TEST(AtomicFile, WithoutCommitTheOldFileStaysAndNothingElse) {
  testing::TempDir folder;
  write_file_atomic(folder / "a", "old");
  {
    AtomicFile file(folder / "a");
    file.write("new");
  }
  EXPECT_EQ(read_file(folder / "a"), "old");
  EXPECT_EQ(names_in(folder), Names{"a"});
}

TEST(AtomicFile, ReplacesTheTargetOfALink) {
  testing::TempDir folder;
  write_file_atomic(folder / "a", "old");
  fs::create_symlink("a", folder / "link");
  write_file_atomic(folder / "link", "new");
  EXPECT_TRUE(fs::is_symlink(folder / "link"));
  EXPECT_EQ(read_file(folder / "a"), "new");
}

TEST(AtomicFile, HonoursTheUmask) {
  testing::TempDir folder;
  const mode_t saved = umask(027);
  write_file_atomic(folder / "a", "x");
  umask(saved);
  EXPECT_EQ(fs::status(folder / "a").permissions(), fs::perms(0640));
}

TEST(AtomicFile, WhereNothingCanBeWrittenIsADiskError) {
  testing::TempDir folder;
  write_file_atomic(folder / "file", "x");
  const std::vector<std::string> paths = {folder / "absent/a", folder / "file/a", folder.str(), "/dev/full"};
  for (const std::string& path : paths) {
    const Error error = error_of([&] { AtomicFile{path}; });
    EXPECT_EQ(error.kind(), ErrorKind::kDisk);
    EXPECT_TRUE(std::string(error.what()).starts_with(path)) << error.what();
    EXPECT_NE(error.hint(), "");
  }
  EXPECT_TRUE(fs::is_character_file("/dev/full"));
}

TEST(AtomicFile, AFailedRenameLeavesNothing) {
  testing::TempDir folder;
  AtomicFile file(folder / "a");
  file.write("x");
  fs::create_directories(folder / "a/in/the/way");
  EXPECT_EQ(error_of([&] { file.commit(); }).kind(), ErrorKind::kDisk);
  { AtomicFile gone = AtomicFile(folder / "b"); }
  fs::remove_all(folder / "a");
  EXPECT_EQ(names_in(folder).size(), 1u) << "the temporary stays until the object goes";
}

// A limit on the size of files stands in for a full disk: write() fails in the same place.
TEST(AtomicFile, AFailedWriteIsADiskErrorAndLeavesNothing) {
  testing::TempDir folder;
  const auto child = [&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {1000, 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    const Error error = error_of([&] { write_file_atomic(folder / "a", std::string(5000, 'x')); });
    std::fprintf(stderr, "%s", render(error).c_str());
    std::_Exit(error.exit_code());
  };
  EXPECT_EXIT(child(), ::testing::ExitedWithCode(7),
              "a: cannot write 4.9 KiB: File too large \\(.* free\\)\nhint: ");
  EXPECT_EQ(names_in(folder), Names{});
}

TEST(DirectoryLock, ASecondHolderIsToldWhoHasIt) {
  testing::TempDir folder;
  const std::string run = folder / "runs/x";
  {
    const DirectoryLock lock(run);
    const Error error = error_of([&] { DirectoryLock second(run); });
    EXPECT_EQ(error.kind(), ErrorKind::kBusy);
    EXPECT_EQ(error.what(), fmt::format("{}: in use by process {}", run, getpid()));
    EXPECT_TRUE(fs::exists(run + "/.lock")) << "the loser must not remove the lock";
    EXPECT_THROW(DirectoryLock third(run), Error);
  }
  EXPECT_FALSE(fs::exists(run + "/.lock"));
  const DirectoryLock again(run);
}

TEST(DirectoryLock, TheLockOfAKilledProcessDoesNotCount) {
  testing::TempDir folder;
  write_file_atomic(folder / ".lock", "999999\n");
  const DirectoryLock lock(folder.str());
  EXPECT_EQ(read_file(folder / ".lock"), fmt::format("{}\n", getpid()));
}

TEST(DirectoryLock, AFileInTheWayIsADiskError) {
  testing::TempDir folder;
  write_file_atomic(folder / "file", "x");
  EXPECT_EQ(error_of([&] { DirectoryLock lock(folder / "file"); }).kind(), ErrorKind::kDisk);
  fs::create_directories(folder / "run/.lock");
  EXPECT_EQ(error_of([&] { DirectoryLock lock(folder / "run"); }).kind(), ErrorKind::kDisk);
}

TEST(Directories, AreMadeOrRefused) {
  testing::TempDir folder;
  make_directories(folder / "a/b/c");
  make_directories(folder / "a/b/c");
  EXPECT_TRUE(fs::is_directory(folder / "a/b/c"));
  write_file_atomic(folder / "file", "x");
  EXPECT_EQ(error_of([&] { make_directories(folder / "file"); }).kind(), ErrorKind::kDisk);
  EXPECT_EQ(error_of([&] { make_directories(folder / "file/b"); }).kind(), ErrorKind::kDisk);
  EXPECT_EQ(error_of([&] { make_directories("/proc/ctxc/b"); }).kind(), ErrorKind::kDisk);
}

TEST(Directories, FreeSpaceIsAskedOfTheNearestFolder) {
  testing::TempDir folder;
  EXPECT_GT(free_disk_bytes(folder.str()), 0u);
  EXPECT_GT(free_disk_bytes(folder / "not/yet/there"), 0u);
  EXPECT_GT(free_disk_bytes(""), 0u);
}

TEST(ContainedJoin, StaysInside) {
  EXPECT_EQ(contained_join("model", "a.safetensors"), "model/a.safetensors");
  EXPECT_EQ(contained_join("model", "sub/../a"), "model/sub/../a");
  EXPECT_EQ(contained_join("model", "..a"), "model/..a");
  const std::vector<std::string> outside = {"",     ".",           "..",   "/etc/passwd",
                                            "../a", "sub/../../a", "a/..", std::string("a\0b", 3)};
  for (const std::string& name : outside)
    EXPECT_EQ(error_of([&] { contained_join("model", name); }).kind(), ErrorKind::kInput) << name;
}

TEST(Hashes, KnownDigests) {
  testing::TempDir folder;
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string million(1'000'000, 'a');
  const std::string expected = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
  Sha256 hash;
  for (size_t at = 0; at < million.size(); at += 12'345)
    hash.update(std::string_view(million).substr(at, 12'345));
  EXPECT_EQ(hash.hex(), expected);
  write_file_atomic(folder / "million", million + million.substr(0, 0));
  EXPECT_EQ(sha256_hex_of_file(folder / "million"), expected);
  write_file_atomic(folder / "abc", "abc");
  EXPECT_EQ(md5_hex_of_file(folder / "abc"), "900150983cd24fb0d6963f7d28e17f72");
  EXPECT_EQ(error_of([&] { sha256_hex_of_file(folder / "absent"); }).kind(), ErrorKind::kInput);
  EXPECT_EQ(error_of([&] { md5_hex_of_file(folder.str()); }).kind(), ErrorKind::kInput);
}

}  // namespace
}  // namespace ctxc
