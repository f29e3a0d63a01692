// TensorBoard event files with scalars. A file is a sequence of TFRecords:
//   uint64 length, uint32 masked_crc32c(length), data, uint32 masked_crc32c(data)       (little-endian)
// and each record's data is a protobuf message `Event`, of which four fields and two nested messages are
// written:
//   Event { double wall_time = 1; int64 step = 2; string file_version = 3; Summary summary = 5; }
//   Summary { repeated Value value = 1; }    Value { string tag = 1; float simple_value = 2; }
// Layouts: tensorflow/core/lib/io/record_writer.h, tensorflow/core/util/event.proto,
// tensorflow/core/framework/summary.proto.
#pragma once
#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>

namespace ctxc {

/// CRC-32C (Castagnoli), as in iSCSI.
uint32_t crc32c(std::string_view bytes);

/// One event file, made anew for each process: a resumed run adds a file, and TensorBoard reads them
/// together.
class EventWriter {
 public:
  /// directory/events.out.tfevents.<unix seconds>.<host>.<pid><suffix>; the folder is made. kDisk.
  explicit EventWriter(const std::string& directory, const std::string& suffix = "");
  /// Written out at once, so that a killed run keeps what it logged. `wall_time` in seconds since 1970.
  /// kDisk.
  void scalar(const std::string& tag, double value, int64_t step, double wall_time);
  void scalar(const std::string& tag, double value, int64_t step);  ///< now
  const std::string& path() const { return path_; }

 private:
  void write_record(const std::string& data);
  std::string path_;
  std::ofstream out_;
};

}  // namespace ctxc
