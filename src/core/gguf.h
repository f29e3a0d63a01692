// GGUF v2 and v3 (llama.cpp's model file): typed metadata, tensor table, quantised blocks. Read only,
// bounds-checked. Block layouts follow ggml-quants: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K;
// others are named and refused.
#pragma once
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/file.h"

namespace ctxc {

/// Metadata values; all integer widths widen to 64 bits, float32 to double; booleans in arrays become 0
/// and 1.
struct GgufValue {
  std::variant<uint64_t, int64_t, double, bool, std::string, std::vector<std::string>, std::vector<double>,
               std::vector<int64_t>>
      value;
};

enum class GgufType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30
};
std::string_view name_of(GgufType type);

struct GgufTensor {
  GgufType type;
  std::vector<int64_t> shape;  ///< outermost first (PyTorch order; the file stores the reverse)
  std::span<const std::byte> bytes;
  int64_t numel() const;
};

class GgufFile {
 public:
  explicit GgufFile(const std::string& path);  ///< Error kInput
  const std::string& path() const { return file_.path(); }
  const std::map<std::string, GgufValue>& metadata() const { return metadata_; }
  const std::map<std::string, GgufTensor>& tensors() const { return tensors_; }

  // Typed access; Error kInput names file, key, type found and expected.
  int64_t integer(const std::string& key) const;
  double number(const std::string& key) const;
  const std::string& string(const std::string& key) const;
  const std::vector<std::string>& strings(const std::string& key) const;
  bool contains(const std::string& key) const { return metadata_.count(key) > 0; }

 private:
  MappedFile file_;
  std::map<std::string, GgufValue> metadata_;
  std::map<std::string, GgufTensor> tensors_;
};

/// Dequantises a whole tensor to float32; `out` holds numel() values.
void dequantize(const GgufTensor& tensor, std::span<float> out);

/// True if the file begins with the magic "GGUF".
bool is_gguf(const std::string& path);

}  // namespace ctxc
