#include "core/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/json.h"
#include "core/text.h"

namespace ctxc {
namespace {

struct DTypeInfo {
  DType dtype;
  std::string_view name;
  size_t size;
};
constexpr std::array<DTypeInfo, 10> kDTypes = {{{DType::kF64, "F64", 8},
                                                {DType::kF32, "F32", 4},
                                                {DType::kF16, "F16", 2},
                                                {DType::kBF16, "BF16", 2},
                                                {DType::kI64, "I64", 8},
                                                {DType::kI32, "I32", 4},
                                                {DType::kI16, "I16", 2},
                                                {DType::kI8, "I8", 1},
                                                {DType::kU8, "U8", 1},
                                                {DType::kBool, "BOOL", 1}}};

constexpr size_t kMaxHeader = 100'000'000;  ///< the limit of the format's reference
constexpr const char* kIncomplete = "is the download incomplete?";

uint64_t read_little_endian(std::span<const std::byte> bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < 8; ++i) value |= std::to_integer<uint64_t>(bytes[i]) << (8 * i);
  return value;
}

/// A number that must be an integer in 0..2^63-1.
uint64_t count_at(const Json& value, const std::string& where) {
  CTXC_CHECK(value.is_number_unsigned() && std::in_range<int64_t>(value.get<uint64_t>()), ErrorKind::kInput,
             "", "{}: wrong number (found {}, expected an integer from 0 to 2^63-1)", where,
             value.dump(-1, ' ', false, Json::error_handler_t::replace).substr(0, 60));
  return value.get<uint64_t>();
}

/// shape x element size, refused if it does not fit into 63 bits.
uint64_t byte_count(const std::vector<int64_t>& shape, size_t element, const std::string& where) {
  int64_t bytes = static_cast<int64_t>(element);
  for (const int64_t extent : shape)
    CTXC_CHECK(!__builtin_mul_overflow(bytes, extent, &bytes), ErrorKind::kInput, "",
               "{}: the shape [{}] holds more bytes than fit into 63 bits", where, fmt::join(shape, ", "));
  return static_cast<uint64_t>(bytes);
}

struct Entry {
  TensorView view;
  uint64_t begin = 0, end = 0;
};

Entry parse_entry(const Json& json, const std::string& where, std::span<const std::byte> data) {
  const auto name = json_at<std::string>(json, "dtype", where);
  const auto* info =
      std::find_if(kDTypes.begin(), kDTypes.end(), [&](const auto& known) { return known.name == name; });
  CTXC_CHECK(info != kDTypes.end(), ErrorKind::kInput, "convert the file to one of these types",
             "{}: unknown dtype (found {}, expected one of F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL)",
             where, name);
  Entry entry;
  entry.view.dtype = info->dtype;
  if (!json.contains("shape") || !json["shape"].is_array()) json_type_error(json, "shape", where, "a list");
  for (const Json& extent : json["shape"])
    entry.view.shape.push_back(static_cast<int64_t>(count_at(extent, where + ": shape")));
  if (!json.contains("data_offsets") || !json["data_offsets"].is_array() || json["data_offsets"].size() != 2)
    json_type_error(json, "data_offsets", where, "[begin, end]");
  entry.begin = count_at(json["data_offsets"][0], where + ": data_offsets");
  entry.end = count_at(json["data_offsets"][1], where + ": data_offsets");
  CTXC_CHECK(entry.begin <= entry.end && entry.end <= data.size(), ErrorKind::kInput, kIncomplete,
             "{}: data_offsets outside of the file (found [{}, {}], expected within {} bytes of data)", where,
             entry.begin, entry.end, data.size());
  const uint64_t expected = byte_count(entry.view.shape, info->size, where);
  CTXC_CHECK(expected == entry.end - entry.begin, ErrorKind::kInput, "",
             "{}: bytes do not fit dtype and shape (found {}, expected {} for {} [{}])", where,
             entry.end - entry.begin, expected, info->name, fmt::join(entry.view.shape, ", "));
  entry.view.bytes = data.subspan(entry.begin, entry.end - entry.begin);
  return entry;
}

/// The tensors must cover the data exactly once: no byte unused, none used twice.
void check_coverage(std::vector<std::pair<std::string, Entry>>& entries, size_t size,
                    const std::string& path) {
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second.begin, a.second.end) < std::pair(b.second.begin, b.second.end);
  });
  uint64_t at = 0;
  for (const auto& [name, entry] : entries) {
    CTXC_CHECK(entry.begin >= at, ErrorKind::kInput, "",
               "{}: tensor '{}' overlaps another (it begins at byte {} of {} used)", path, name, entry.begin,
               at);
    CTXC_CHECK(entry.begin == at, ErrorKind::kInput, "",
               "{}: gap before tensor '{}' (bytes {} to {} belong to no tensor)", path, name, at,
               entry.begin);
    at = entry.end;
  }
  CTXC_CHECK(at == size, ErrorKind::kInput, "", "{}: {} bytes after the last tensor belong to none", path,
             size - at);
}

}  // namespace

size_t size_of(DType dtype) {
  return kDTypes[static_cast<size_t>(dtype)].size;
}
std::string_view name_of(DType dtype) {
  return kDTypes[static_cast<size_t>(dtype)].name;
}

int64_t TensorView::numel() const {
  int64_t count = 1;
  for (const int64_t extent : shape) count *= extent;
  return count;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  const auto bytes = file_.bytes();
  CTXC_CHECK(bytes.size() >= 8, ErrorKind::kInput, kIncomplete,
             "{}: too short for a safetensors file (found {} bytes, expected at least 8)", path,
             bytes.size());
  const uint64_t length = read_little_endian(bytes);
  CTXC_CHECK(length <= kMaxHeader, ErrorKind::kInput, "is this a safetensors file?",
             "{}: header length is out of range (found {}, expected at most {})", path, length, kMaxHeader);
  CTXC_CHECK(length <= bytes.size() - 8, ErrorKind::kInput, kIncomplete,
             "{}: header is longer than the file (found {} bytes after the length, expected {})", path,
             bytes.size() - 8, length);
  const Json header = parse_json(file_.text().substr(8, length), path + ": header", 1,
                                 {.max_bytes = kMaxHeader, .max_depth = 8, .unique_keys = true});
  CTXC_CHECK(header.is_object(), ErrorKind::kInput, "", "{}: header is not an object (found {})", path,
             header.type_name());
  const auto data = bytes.subspan(8 + length);
  std::vector<std::pair<std::string, Entry>> entries;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") {
      CTXC_CHECK(value.is_object(), ErrorKind::kInput, "", "{}: __metadata__ is not an object (found {})",
                 path, value.type_name());
      for (const auto& item : value.items())
        metadata_[item.key()] = json_at<std::string>(value, item.key(), path + ": __metadata__");
    } else {
      entries.emplace_back(name, parse_entry(value, fmt::format("{}: tensor '{}'", path, name), data));
    }
  }
  check_coverage(entries, data.size(), path);
  for (auto& [name, entry] : entries) tensors_.emplace(name, std::move(entry.view));
}

namespace {

/// Path of the one file or the index that `path` stands for.
std::filesystem::path resolve(const std::string& path) {
  std::error_code unreadable;  // then opening it says what is wrong
  if (!std::filesystem::is_directory(path, unreadable)) return path;
  for (const char* name : {"model.safetensors", "model.safetensors.index.json"})
    if (std::filesystem::exists(std::filesystem::path(path) / name, unreadable))
      return std::filesystem::path(path) / name;
  throw Error(
      ErrorKind::kInput,
      fmt::format(
          "{}: no weights in this folder (expected model.safetensors or model.safetensors.index.json)", path),
      "give a Hugging Face folder, a .safetensors file or a GGUF file");
}

}  // namespace

SafetensorsSet::SafetensorsSet(const std::string& path) {
  const std::filesystem::path file = resolve(path);
  if (file.extension() != ".json") {
    files_.emplace_back(file.string());
    tensors_ = files_.front().tensors();
    return;
  }
  const Json index = read_json_file(file.string(), {.unique_keys = true});
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object())
    json_type_error(index, "weight_map", file.string(), "an object that maps tensors to files");
  const Json& map = index["weight_map"];
  std::set<std::string> shards;
  for (const auto& item : map.items())
    shards.insert(json_at<std::string>(map, item.key(), file.string() + ": weight_map"));
  const std::string folder = file.parent_path().empty() ? "." : file.parent_path().string();
  std::vector<std::string> missing;
  std::error_code unreadable;
  for (const std::string& shard : shards)
    if (!std::filesystem::exists(contained_join(folder, shard), unreadable)) missing.push_back(shard);
  CTXC_CHECK(missing.empty(), ErrorKind::kInput, kIncomplete, "{}: {} of {} files are missing: {}",
             file.string(), missing.size(), shards.size(), join(missing, ", "));
  for (const std::string& shard : shards) {
    const SafetensorsFile& opened = files_.emplace_back(contained_join(folder, shard));
    for (const auto& [name, view] : opened.tensors()) {
      CTXC_CHECK(map.contains(name) && map[name] == shard, ErrorKind::kInput, "",
                 "{}: tensor '{}' is in {}, where the index does not place it", file.string(), name, shard);
      tensors_.emplace(name, view);
    }
  }
  for (const auto& item : map.items())
    if (!tensors_.contains(item.key())) missing.push_back(item.key());
  CTXC_CHECK(missing.empty(), ErrorKind::kInput, "", "{}: tensors that the files do not hold: {}",
             file.string(), join(missing, ", "));
}

void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, TensorView>>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  OrderedJson header = OrderedJson::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t at = 0;
  std::set<std::string> names = {"__metadata__"};
  for (const auto& [name, view] : tensors) {
    const std::string where = fmt::format("{}: tensor '{}'", path, name);
    CTXC_CHECK(names.insert(name).second, ErrorKind::kInternal, "", "{}: name is used twice", where);
    CTXC_CHECK(byte_count(view.shape, size_of(view.dtype), where) == view.bytes.size(), ErrorKind::kInternal,
               "", "{}: {} bytes do not fit {} [{}]", where, view.bytes.size(), name_of(view.dtype),
               fmt::join(view.shape, ", "));
    header.emplace(name, OrderedJson{{"dtype", name_of(view.dtype)},
                                     {"shape", view.shape},
                                     {"data_offsets", {at, at + view.bytes.size()}}});
    at += view.bytes.size();
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const OrderedJson::exception&) {
    throw Error(ErrorKind::kInput, fmt::format("{}: names or metadata are not valid UTF-8", path));
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data then begin at a multiple of 8
  std::array<std::byte, 8> length;
  for (size_t i = 0; i < 8; ++i) length[i] = std::byte(text.size() >> (8 * i) & 0xFF);
  AtomicFile file(path);
  file.write(length);
  file.write(text);
  for (const auto& [name, view] : tensors) file.write(view.bytes);
  file.commit();
}

}  // namespace ctxc
