// The safetensors container: 8 bytes little-endian header length, a JSON header, then the tensors' bytes.
// Everything is checked against the file before a byte is used: header length, offsets, overlaps, gaps, dtype
// and shape against the byte count (with overflow), duplicate names. Nothing is copied: views point into the
// mapping.
#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/file.h"

namespace ctxc {

enum class DType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };
size_t size_of(DType dtype);
std::string_view name_of(DType dtype);  ///< "F32", "BF16", …

struct TensorView {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
  int64_t numel() const;
};

/// One safetensors file, mapped.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);  ///< Error kInput: "path: …"
  const std::string& path() const { return file_.path(); }
  const MappedFile& file() const { return file_; }
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  MappedFile file_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

/// A model's tensors: one file, or the shards that `model.safetensors.index.json` names. Shards stay mapped.
class SafetensorsSet {
 public:
  /// `path`: a .safetensors file, an index.json, or a folder with model.safetensors or its index.
  explicit SafetensorsSet(const std::string& path);
  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::vector<SafetensorsFile>& files() const { return files_; }

 private:
  std::vector<SafetensorsFile> files_;
  std::map<std::string, TensorView> tensors_;
};

/// Writes atomically, tensors in the given order, 8-byte aligned header as the format's reference does.
void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, TensorView>>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace ctxc
