#include "core/tensorboard.h"

#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"

namespace ctxc {
namespace {

constexpr std::array<uint32_t, 256> make_crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t byte = 0; byte < 256; ++byte) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82F63B78u : 0u);
    table[byte] = crc;
  }
  return table;
}
constexpr std::array<uint32_t, 256> kCrcTable = make_crc_table();

/// Rotated and shifted, since a CRC over data that holds a CRC is weak.
uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(bytes);
  return std::rotr(crc, 15) + 0xA282EAD8u;
}

template <class Integer>
std::string little_endian(Integer value) {
  std::string bytes;
  for (size_t i = 0; i < sizeof(Integer); ++i) bytes += static_cast<char>(value >> (8 * i) & 0xFF);
  return bytes;
}

// Protobuf's wire format: a field is its number and wire type (0 varint, 1 fixed64, 2 length-delimited, 5
// fixed32) packed into a varint, then its value.
std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}
std::string field_int64(uint32_t number, int64_t value) {
  return varint(number << 3 | 0) + varint(static_cast<uint64_t>(value));
}
std::string field_double(uint32_t number, double value) {
  return varint(number << 3 | 1) + little_endian(std::bit_cast<uint64_t>(value));
}
std::string field_bytes(uint32_t number, std::string_view value) {
  return varint(number << 3 | 2) + varint(value.size()) + std::string(value);
}
std::string field_float(uint32_t number, float value) {
  return varint(number << 3 | 5) + little_endian(std::bit_cast<uint32_t>(value));
}

double unix_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string host_name() {
  std::array<char, 256> name{};
  return gethostname(name.data(), name.size() - 1) == 0 && name[0] ? name.data() : "localhost";
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t crc = ~0u;
  for (char byte : bytes) crc = crc >> 8 ^ kCrcTable[(crc ^ static_cast<unsigned char>(byte)) & 0xFF];
  return ~crc;
}

EventWriter::EventWriter(const std::string& directory, const std::string& suffix) {
  make_directories(directory);
  // Readers sort by name, so a second writer of the same second and process must not overwrite the first.
  for (auto second = static_cast<int64_t>(unix_seconds());; ++second) {
    path_ =
        fmt::format("{}/events.out.tfevents.{}.{}.{}{}", directory, second, host_name(), getpid(), suffix);
    if (!std::filesystem::exists(path_)) break;
  }
  out_.open(path_, std::ios::binary);
  CTXC_CHECK(out_.is_open(), ErrorKind::kDisk, "choose an output folder you can write to",
             "{}: cannot be opened for writing: {}", path_, std::strerror(errno));
  write_record(field_double(1, unix_seconds()) + field_bytes(3, "brain.Event:2"));
}

void EventWriter::scalar(const std::string& tag, double value, int64_t step, double wall_time) {
  const std::string summary = field_bytes(1, field_bytes(1, tag) + field_float(2, static_cast<float>(value)));
  write_record(field_double(1, wall_time) + field_int64(2, step) + field_bytes(5, summary));
}

void EventWriter::scalar(const std::string& tag, double value, int64_t step) {
  scalar(tag, value, step, unix_seconds());
}

void EventWriter::write_record(const std::string& data) {
  const std::string length = little_endian(uint64_t{data.size()});
  out_ << length << little_endian(masked_crc(length)) << data << little_endian(masked_crc(data))
       << std::flush;
  CTXC_CHECK(out_.good(), ErrorKind::kDisk, "free some space, or choose another output folder",
             "{}: cannot be written ({} free)", path_, human_bytes(free_disk_bytes(path_)));
}

}  // namespace ctxc
