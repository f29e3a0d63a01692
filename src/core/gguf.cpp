#include "core/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <fstream>
#include <utility>

#include "core/error.h"

namespace ctxc {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF and this reader are little-endian");

struct TypeInfo {
  GgufType type;
  std::string_view name;
  int64_t block_values, block_bytes;
};
constexpr std::array<TypeInfo, 9> kTypes = {{{GgufType::kF32, "F32", 1, 4},
                                             {GgufType::kF16, "F16", 1, 2},
                                             {GgufType::kBF16, "BF16", 1, 2},
                                             {GgufType::kQ4_0, "Q4_0", 32, 18},
                                             {GgufType::kQ4_1, "Q4_1", 32, 20},
                                             {GgufType::kQ8_0, "Q8_0", 32, 34},
                                             {GgufType::kQ4_K, "Q4_K", 256, 144},
                                             {GgufType::kQ5_K, "Q5_K", 256, 176},
                                             {GgufType::kQ6_K, "Q6_K", 256, 210}}};

const TypeInfo* find_type(GgufType type) {
  const auto found =
      std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& known) { return known.type == type; });
  return found == kTypes.end() ? nullptr : &*found;
}

/// Value types of the metadata, as the file numbers them.
enum ValueType : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kFloat32,
  kBoolean,
  kString,
  kArray,
  kU64,
  kI64,
  kFloat64
};

/// Reads from front to back; every read is checked against what is left.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, const std::string& path) : bytes_(bytes), path_(path) {}

  template <class T>
  T read() {
    T value;
    std::memcpy(&value, take(sizeof(T)), sizeof(T));
    return value;
  }
  std::string read_string() {
    const auto length = read<uint64_t>();
    return std::string(reinterpret_cast<const char*>(take(length)), length);
  }
  /// Room for `count` items of at least `size` bytes each; so that no count in the file makes us allocate
  /// more.
  void expect(uint64_t count, uint64_t size, const std::string& what) const {
    CTXC_CHECK(count <= left() / size, ErrorKind::kInput, "is the download incomplete?",
               "{}: byte {}: {} cannot hold {} items (found {} bytes left)", path_, at_, what, count, left());
  }
  uint64_t left() const { return bytes_.size() - at_; }
  uint64_t at() const { return at_; }

 private:
  const std::byte* take(uint64_t count) {
    CTXC_CHECK(count <= left(), ErrorKind::kInput, "is the download incomplete?",
               "{}: byte {}: the file ends too early (found {} bytes, expected {})", path_, at_, left(),
               count);
    const std::byte* start = bytes_.data() + at_;
    at_ += count;
    return start;
  }

  std::span<const std::byte> bytes_;
  const std::string& path_;
  uint64_t at_ = 0;
};

bool read_boolean(Cursor& in, const std::string& where) {
  const auto value = in.read<uint8_t>();
  CTXC_CHECK(value <= 1, ErrorKind::kInput, "", "{}: wrong boolean (found {}, expected 0 or 1)", where,
             value);
  return value == 1;
}

int64_t read_integer(Cursor& in, uint32_t type, const std::string& where) {
  switch (type) {
    case kU8:
      return in.read<uint8_t>();
    case kI8:
      return in.read<int8_t>();
    case kU16:
      return in.read<uint16_t>();
    case kI16:
      return in.read<int16_t>();
    case kU32:
      return in.read<uint32_t>();
    case kI32:
      return in.read<int32_t>();
    case kI64:
      return in.read<int64_t>();
    case kBoolean:
      return read_boolean(in, where);
    default:
      break;
  }
  const auto value = in.read<uint64_t>();
  CTXC_CHECK(std::in_range<int64_t>(value), ErrorKind::kInput, "", "{}: integer is too large (found {})",
             where, value);
  return static_cast<int64_t>(value);
}

/// Bytes of one item, 8 for the length of a string; 0 if there is no such type.
uint64_t item_bytes(uint32_t type) {
  constexpr std::array<uint8_t, 13> kBytes = {1, 1, 2, 2, 4, 4, 4, 1, 8, 0, 8, 8, 8};
  return type < kBytes.size() ? kBytes[type] : 0;
}

GgufValue read_array(Cursor& in, const std::string& where) {
  const auto type = in.read<uint32_t>();
  const auto count = in.read<uint64_t>();
  CTXC_CHECK(item_bytes(type) > 0, ErrorKind::kInput, "", "{}: arrays of type {} are not supported", where,
             type);
  in.expect(count, item_bytes(type), where);
  if (type == kString) {
    std::vector<std::string> items;
    items.reserve(count);
    for (uint64_t i = 0; i < count; ++i) items.push_back(in.read_string());
    return {std::move(items)};
  }
  if (type == kFloat32 || type == kFloat64) {
    std::vector<double> items(count);
    for (double& item : items)
      item = type == kFloat32 ? static_cast<double>(in.read<float>()) : in.read<double>();
    return {std::move(items)};
  }
  std::vector<int64_t> items(count);
  for (int64_t& item : items) item = read_integer(in, type, where);
  return {std::move(items)};
}

GgufValue read_value(Cursor& in, const std::string& where) {
  const auto type = in.read<uint32_t>();
  switch (type) {
    case kU8:
      return {uint64_t{in.read<uint8_t>()}};
    case kU16:
      return {uint64_t{in.read<uint16_t>()}};
    case kU32:
      return {uint64_t{in.read<uint32_t>()}};
    case kU64:
      return {in.read<uint64_t>()};
    case kI8:
    case kI16:
    case kI32:
    case kI64:
      return {read_integer(in, type, where)};
    case kFloat32:
      return {static_cast<double>(in.read<float>())};
    case kFloat64:
      return {in.read<double>()};
    case kBoolean:
      return {read_boolean(in, where)};
    case kString:
      return {in.read_string()};
    case kArray:
      return read_array(in, where);
    default:
      break;
  }
  throw Error(ErrorKind::kInput,
              fmt::format("{}: unknown value type (found {}, expected 0 to 12)", where, type));
}

struct Entry {
  std::string name;
  GgufTensor tensor;
  uint64_t offset = 0, size = 0;
};

/// One line of the tensor table; its bytes are set once the table's end is known.
Entry read_tensor_info(Cursor& in, const std::string& path) {
  Entry entry{.name = in.read_string(), .tensor = {}};
  const std::string where = fmt::format("{}: tensor '{}'", path, entry.name);
  const auto dimensions = in.read<uint32_t>();
  constexpr uint32_t kMaxDimensions = 4;
  CTXC_CHECK(dimensions <= kMaxDimensions, ErrorKind::kInput, "",
             "{}: too many dimensions (found {}, expected at most {})", where, dimensions, kMaxDimensions);
  int64_t values = 1;
  for (uint32_t i = 0; i < dimensions; ++i) {
    const auto extent = in.read<uint64_t>();
    CTXC_CHECK(std::in_range<int64_t>(extent) &&
                   !__builtin_mul_overflow(values, static_cast<int64_t>(extent), &values),
               ErrorKind::kInput, "", "{}: the shape holds more values than fit into 63 bits", where);
    entry.tensor.shape.insert(entry.tensor.shape.begin(), static_cast<int64_t>(extent));
  }
  const auto type = in.read<uint32_t>();
  const TypeInfo* info = find_type(static_cast<GgufType>(type));
  CTXC_CHECK(info != nullptr, ErrorKind::kInput, "convert the file to one of these types",
             "{}: unknown block type (found ggml type {}, expected one of F32, F16, BF16, Q4_0, Q4_1, Q8_0, "
             "Q4_K, Q5_K, Q6_K)",
             where, type);
  entry.tensor.type = info->type;
  const int64_t row = entry.tensor.shape.empty() ? 1 : entry.tensor.shape.back();
  CTXC_CHECK(row % info->block_values == 0, ErrorKind::kInput, "",
             "{}: row length does not fit {} (found {}, expected a multiple of {})", where, info->name, row,
             info->block_values);
  int64_t size = 0;
  CTXC_CHECK(!__builtin_mul_overflow(values / info->block_values, info->block_bytes, &size),
             ErrorKind::kInput, "", "{}: the shape holds more bytes than fit into 63 bits", where);
  entry.size = static_cast<uint64_t>(size);
  entry.offset = in.read<uint64_t>();
  return entry;
}

/// Cuts the tensors out of the data section: inside of it, aligned, without overlaps.
void place_tensors(std::vector<Entry>& entries, std::span<const std::byte> data, uint64_t alignment,
                   const std::string& path) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.offset, a.size) < std::pair(b.offset, b.size);
  });
  uint64_t used = 0;
  for (Entry& entry : entries) {
    const std::string where = fmt::format("{}: tensor '{}'", path, entry.name);
    CTXC_CHECK(entry.offset <= data.size() && entry.size <= data.size() - entry.offset, ErrorKind::kInput,
               "is the download incomplete?",
               "{}: lies outside of the file (found {} bytes of data, expected {} + {})", where, data.size(),
               entry.offset, entry.size);
    CTXC_CHECK(entry.offset % alignment == 0, ErrorKind::kInput, "", "{}: offset {} is not a multiple of {}",
               where, entry.offset, alignment);
    CTXC_CHECK(entry.offset >= used, ErrorKind::kInput, "",
               "{}: overlaps another tensor (offset {}, {} bytes are used)", where, entry.offset, used);
    used = entry.offset + entry.size;
    entry.tensor.bytes = data.subspan(entry.offset, entry.size);
  }
}

std::string_view type_name(const GgufValue& value) {
  constexpr std::array<std::string_view, 8> kNames = {
      "an unsigned integer", "an integer",        "a number",          "a boolean", "a string",
      "a list of strings",   "a list of numbers", "a list of integers"};
  return kNames[value.value.index()];
}

}  // namespace

std::string_view name_of(GgufType type) {
  const TypeInfo* info = find_type(type);
  return info ? info->name : "unknown";
}

int64_t GgufTensor::numel() const {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

GgufFile::GgufFile(const std::string& path) : file_(path) {
  CTXC_CHECK(file_.text().starts_with("GGUF"), ErrorKind::kInput, "",
             "{}: not a GGUF file (the magic bytes are missing)", path);
  Cursor in(file_.bytes(), path);
  in.read<uint32_t>();
  const auto version = in.read<uint32_t>();
  CTXC_CHECK(version == 2 || version == 3, ErrorKind::kInput, "convert the file with a current llama.cpp",
             "{}: GGUF version is not supported (found {}, expected 2 or 3)", path, version);
  const auto tensor_count = in.read<uint64_t>();
  const auto key_count = in.read<uint64_t>();
  constexpr uint64_t kSmallestKey = 8 + 4 + 1, kSmallestTensor = 8 + 4 + 4 + 8;
  in.expect(key_count, kSmallestKey, "the metadata");
  for (uint64_t i = 0; i < key_count; ++i) {
    const std::string key = in.read_string();
    const std::string where = fmt::format("{}: key '{}'", path, key);
    CTXC_CHECK(metadata_.emplace(key, read_value(in, where)).second, ErrorKind::kInput, "",
               "{} appears twice", where);
  }
  in.expect(tensor_count, kSmallestTensor, "the tensor table");
  std::vector<Entry> entries;
  for (uint64_t i = 0; i < tensor_count; ++i) entries.push_back(read_tensor_info(in, path));
  constexpr int64_t kDefaultAlignment = 32, kMaxAlignment = 1 << 20;
  const int64_t alignment = contains("general.alignment") ? integer("general.alignment") : kDefaultAlignment;
  CTXC_CHECK(
      alignment > 0 && alignment <= kMaxAlignment && std::has_single_bit(static_cast<uint64_t>(alignment)),
      ErrorKind::kInput, "", "{}: general.alignment is wrong (found {}, expected a power of two up to {})",
      path, alignment, kMaxAlignment);
  const uint64_t step = static_cast<uint64_t>(alignment);
  const uint64_t start = std::min<uint64_t>((in.at() + step - 1) / step * step, file_.bytes().size());
  place_tensors(entries, file_.bytes().subspan(start), step, path);
  for (Entry& entry : entries)
    CTXC_CHECK(tensors_.emplace(entry.name, std::move(entry.tensor)).second, ErrorKind::kInput, "",
               "{}: tensor '{}' appears twice", path, entry.name);
}

namespace {

const GgufValue& value_at(const GgufFile& file, const std::string& key, std::string_view expected) {
  const auto found = file.metadata().find(key);
  CTXC_CHECK(found != file.metadata().end(), ErrorKind::kInput, "", "{}: key '{}' is missing (expected {})",
             file.path(), key, expected);
  return found->second;
}

[[noreturn]] void wrong_type(const GgufFile& file, const std::string& key, const GgufValue& value,
                             std::string_view expected) {
  throw Error(ErrorKind::kInput, fmt::format("{}: key '{}' has a wrong type (found {}, expected {})",
                                             file.path(), key, type_name(value), expected));
}

template <class T>
const T& typed_at(const GgufFile& file, const std::string& key, std::string_view expected) {
  const GgufValue& value = value_at(file, key, expected);
  const T* typed = std::get_if<T>(&value.value);
  if (!typed) wrong_type(file, key, value, expected);
  return *typed;
}

}  // namespace

int64_t GgufFile::integer(const std::string& key) const {
  const GgufValue& value = value_at(*this, key, "an integer");
  if (const auto* number = std::get_if<int64_t>(&value.value)) return *number;
  const auto* number = std::get_if<uint64_t>(&value.value);
  if (!number || !std::in_range<int64_t>(*number)) wrong_type(*this, key, value, "an integer below 2^63");
  return static_cast<int64_t>(*number);
}

double GgufFile::number(const std::string& key) const {
  const GgufValue& value = value_at(*this, key, "a number");
  if (const auto* number = std::get_if<double>(&value.value)) return *number;
  if (const auto* number = std::get_if<int64_t>(&value.value)) return static_cast<double>(*number);
  if (const auto* number = std::get_if<uint64_t>(&value.value)) return static_cast<double>(*number);
  wrong_type(*this, key, value, "a number");
}

const std::string& GgufFile::string(const std::string& key) const {
  return typed_at<std::string>(*this, key, "a string");
}

const std::vector<std::string>& GgufFile::strings(const std::string& key) const {
  return typed_at<std::vector<std::string>>(*this, key, "a list of strings");
}

bool is_gguf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::array<char, 4> magic{};
  return file.read(magic.data(), magic.size()) && std::string_view(magic.data(), magic.size()) == "GGUF";
}

}  // namespace ctxc
