#include "core/tensorboard.h"

#include <sys/resource.h>

#include <bit>
#include <csignal>

#include "core/error.h"
#include "core/file.h"
#include "testing.h"

namespace ctxc {
namespace {

/// Reads one event file, byte by byte, failing on anything that is not as the format says.
class Decoder {
 public:
  explicit Decoder(std::string bytes) : bytes_(std::move(bytes)) {}
  bool at_end() const { return at_ == bytes_.size(); }
  uint64_t fixed(size_t size) {
    uint64_t value = 0;
    for (size_t i = 0; i < size; ++i)
      value |= static_cast<uint64_t>(static_cast<unsigned char>(bytes_.at(at_++))) << (8 * i);
    return value;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const uint64_t byte = fixed(1);
      value |= (byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
  }
  std::string bytes(size_t size) {
    at_ += size;
    return bytes_.substr(at_ - size, size);
  }
  /// The data of a record, both sums checked.
  std::string record() {
    const std::string length = bytes(8);
    EXPECT_EQ(fixed(4), mask(crc32c(length)));
    const std::string data = bytes(Decoder(length).fixed(8));
    EXPECT_EQ(fixed(4), mask(crc32c(data)));
    return data;
  }

 private:
  static uint32_t mask(uint32_t crc) { return ((crc >> 15) | (crc << 17)) + 0xa282ead8u; }
  std::string bytes_;
  size_t at_ = 0;
};

// RFC 3720, B.4, and the customary check value.
TEST(Crc32c, KnownAnswers) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAu);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62A8AB43u);
}

TEST(EventWriter, WritesWhatTheFormatSays) {
  testing::TempDir folder;
  EventWriter writer(folder / "tensorboard", ".x");
  writer.scalar("train/loss", 2.5, 300, 1700000000.25);
  const std::string name = std::filesystem::path(writer.path()).filename();
  EXPECT_TRUE(name.starts_with("events.out.tfevents.") && name.ends_with(".x")) << name;

  Decoder file(read_file(writer.path()));
  Decoder version(file.record());
  EXPECT_EQ(version.varint(), 1u << 3 | 1);
  EXPECT_GT(std::bit_cast<double>(version.fixed(8)), 1.6e9);
  EXPECT_EQ(version.varint(), 3u << 3 | 2);
  EXPECT_EQ(version.bytes(version.varint()), "brain.Event:2");
  EXPECT_TRUE(version.at_end());

  Decoder event(file.record());
  EXPECT_EQ(event.varint(), 1u << 3 | 1);
  EXPECT_EQ(std::bit_cast<double>(event.fixed(8)), 1700000000.25);
  EXPECT_EQ(event.varint(), 2u << 3 | 0);
  EXPECT_EQ(event.varint(), 300u);
  EXPECT_EQ(event.varint(), 5u << 3 | 2);
  Decoder summary(event.bytes(event.varint()));
  EXPECT_TRUE(event.at_end());
  EXPECT_EQ(summary.varint(), 1u << 3 | 2);
  Decoder value(summary.bytes(summary.varint()));
  EXPECT_TRUE(summary.at_end());
  EXPECT_EQ(value.varint(), 1u << 3 | 2);
  EXPECT_EQ(value.bytes(value.varint()), "train/loss");
  EXPECT_EQ(value.varint(), 2u << 3 | 5);
  EXPECT_EQ(std::bit_cast<float>(static_cast<uint32_t>(value.fixed(4))), 2.5f);
  EXPECT_TRUE(value.at_end());
  EXPECT_TRUE(file.at_end());
}

TEST(EventWriter, LongTagsAndLargeStepsSurvive) {
  testing::TempDir folder;
  EventWriter writer(folder.str());
  const std::string tag(1000, 't');
  writer.scalar(tag, 1, int64_t{1} << 40);
  Decoder file(read_file(writer.path()));
  file.record();
  Decoder event(file.record());
  event.bytes(10);
  EXPECT_EQ(event.varint(), uint64_t{1} << 40);
  EXPECT_NE(event.bytes(1000).find("ttt"), std::string::npos);
}

TEST(EventWriter, TwoWritersDoNotShareAFile) {
  testing::TempDir folder;
  EventWriter first(folder.str()), second(folder.str());
  EXPECT_NE(first.path(), second.path());
}

TEST(EventWriter, DiskErrors) {
  testing::TempDir folder;
  write_file_atomic(folder / "file", "x");
  EXPECT_THROW(EventWriter(folder / "file"), Error);
  EXPECT_THROW(EventWriter(folder.str(), "/absent"), Error);
  const auto child = [&] {
    EventWriter writer(folder.str());
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit = {1000, 1000};
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      writer.scalar(std::string(2000, 't'), 1, 1);
    } catch (const Error& error) {
      std::fprintf(stderr, "%s", render(error).c_str());
      std::_Exit(error.exit_code());
    }
    std::_Exit(0);
  };
  EXPECT_EXIT(child(), ::testing::ExitedWithCode(7), "cannot be written \\(.* free\\)");
}

/// For tests/interop: with CTXC_EVENT_DIR set, leaves an event file there for the real tensorboard package.
TEST(EventWriter, LeavesAFileForTensorboard) {
  const char* directory = std::getenv("CTXC_EVENT_DIR");
  if (!directory) GTEST_SKIP() << "CTXC_EVENT_DIR is not set";
  EventWriter writer(directory);
  for (int64_t step = 0; step < 5; ++step) {
    writer.scalar("train/loss", 4.0 / static_cast<double>(step + 1), step);
    writer.scalar("train/lr", 1e-4, step);
  }
}

}  // namespace
}  // namespace ctxc
