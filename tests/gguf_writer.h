// Writes GGUF files byte by byte, right or wrong: what the tests of the reader feed it.
#pragma once
#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ctxc::testing {

class GgufWriter {
 public:
  /// Value types as the format numbers them.
  enum Type : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };

  template <class T>
  static std::string raw(T value) {
    return std::string(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  static std::string text(std::string_view value) { return raw<uint64_t>(value.size()) + std::string(value); }

  /// A key with the bytes of its value.
  GgufWriter& key(std::string_view name, uint32_t type, const std::string& value) {
    keys_ += text(name) + raw(type) + value;
    ++key_count;
    return *this;
  }
  GgufWriter& integer(std::string_view name, uint32_t value) { return key(name, kU32, raw(value)); }
  GgufWriter& number(std::string_view name, float value) { return key(name, kF32, raw(value)); }
  GgufWriter& string(std::string_view name, std::string_view value) {
    return key(name, kString, text(value));
  }

  /// A tensor placed after the last one; `shape` outermost first.
  GgufWriter& tensor(std::string_view name, const std::vector<uint64_t>& shape, uint32_t type,
                     const std::string& bytes) {
    data_.resize((data_.size() + 31) / 32 * 32, '\0');
    return tensor_at(name, shape, type, data_.size()).data(bytes);
  }
  GgufWriter& tensor_at(std::string_view name, const std::vector<uint64_t>& shape, uint32_t type,
                        uint64_t offset) {
    table_ += text(name) + raw<uint32_t>(static_cast<uint32_t>(shape.size()));
    for (auto extent = shape.rbegin(); extent != shape.rend(); ++extent) table_ += raw(*extent);
    table_ += raw(type) + raw(offset);
    ++tensor_count;
    return *this;
  }
  GgufWriter& data(const std::string& bytes) {
    data_ += bytes;
    return *this;
  }

  std::string bytes() const {
    std::string all = "GGUF" + raw(version) + raw(tensor_count) + raw(key_count) + keys_ + table_;
    all.resize((all.size() + 31) / 32 * 32, '\0');
    return all + data_;
  }
  std::string save(const std::string& path) const {
    const std::string all = bytes();
    std::ofstream(path, std::ios::binary).write(all.data(), static_cast<std::streamsize>(all.size()));
    return path;
  }

  uint32_t version = 3;
  uint64_t tensor_count = 0, key_count = 0;  ///< as written; tests may lie

 private:
  std::string keys_, table_, data_;
};

/// `bytes` as a file.
inline std::string write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  return path;
}

}  // namespace ctxc::testing
