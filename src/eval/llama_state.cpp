#include "eval/llama_state.h"

#include <cstring>

#include "core/error.h"
#include "core/file.h"

namespace ctxc {
namespace {

constexpr uint32_t kMagic = 0x67677371;  // 'ggsq'
constexpr int64_t kMaxStreams = 256;     // sequences of a context of llama.cpp at most

int32_t ggml_type(at::ScalarType type) {
  if (type == at::kFloat) return 0;
  if (type == at::kHalf) return 1;
  CTXC_CHECK(type == at::kBFloat16, ErrorKind::kUsage, "--dtype f16 is the default of llama.cpp",
             "llamacpp-state: a cache of llama.cpp cannot hold this type (found {})", at::toString(type));
  return 30;
}

at::ScalarType scalar_of(int32_t type, const std::string& path) {
  CTXC_CHECK(type == 0 || type == 1 || type == 30, ErrorKind::kInput,
             "save it with --cache-type-k and -v f16, bf16 or f32",
             "{}: the cache has a type that cannot be read (found ggml type {}, expected 0, 1 or 30)", path,
             type);
  return type == 0 ? at::kFloat : type == 1 ? at::kHalf : at::kBFloat16;
}

/// Halves of every head side by side: x0, xE/2, x1, …
Tensor interleaved(const Tensor& k_LGNE) {
  const auto shape = k_LGNE.sizes();
  return k_LGNE.view({shape[0], shape[1], shape[2], 2, shape[3] / 2}).transpose(3, 4).reshape(shape);
}
Tensor separated(const Tensor& k_LGNE) {
  const auto shape = k_LGNE.sizes();
  return k_LGNE.reshape({shape[0], shape[1], shape[2], shape[3] / 2, 2}).transpose(3, 4).reshape(shape);
}

class Writer {
 public:
  template <class T>
  void put(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  void put(const Tensor& rows) {
    const Tensor packed = rows.contiguous();
    bytes.append(static_cast<const char*>(packed.const_data_ptr()), packed.nbytes());
  }
  std::string bytes;
};

class Reader {
 public:
  Reader(const std::string& path, std::string_view bytes) : path_(path), bytes_(bytes) {}
  template <class T>
  T get() {
    T value;
    std::memcpy(&value, take(sizeof value), sizeof value);
    return value;
  }
  Tensor get(const std::vector<int64_t>& shape, at::ScalarType type) {
    Tensor rows = at::empty(shape, type);
    std::memcpy(rows.mutable_data_ptr(), take(rows.nbytes()), rows.nbytes());
    return rows;
  }
  void expect(bool condition, const char* what, int64_t found, int64_t expected) const {
    CTXC_CHECK(condition, ErrorKind::kInput,
               "save it with one sequence, by the model this memory was made for",
               "{}: not a state that fits: {} (found {}, expected {})", path_, what, found, expected);
  }
  const std::string& path() const { return path_; }
  void expect_end() const { expect(at_ == bytes_.size(), "bytes after the end", bytes_.size() - at_, 0); }

 private:
  const char* take(size_t count) {
    CTXC_CHECK(count <= bytes_.size() - at_, ErrorKind::kInput, "the file is cut off or of another kind",
               "{}: ends early (found {} bytes, expected {} more at {})", path_, bytes_.size(), count, at_);
    const char* start = bytes_.data() + at_;
    at_ += count;
    return start;
  }
  std::string path_;
  std::string_view bytes_;
  size_t at_ = 0;
};

/// Servers of newer builds save the ids wrapped: -1, version 1, count, ids, number of media pieces.
void unwrap(const Reader& in, std::vector<int32_t>& tokens) {
  if (tokens.empty() || tokens[0] != -1) return;
  in.expect(tokens.size() >= 4, "entries of the wrapped list of ids", static_cast<int64_t>(tokens.size()), 4);
  in.expect(tokens[1] == 1, "version of the wrapped list of ids", tokens[1], 1);
  const int64_t count = tokens[2], room = static_cast<int64_t>(tokens.size()) - 4;
  in.expect(count == room, "ids in the wrapped list", count, room);
  in.expect(tokens.back() == 0, "media pieces beside the ids", tokens.back(), 0);
  tokens = std::vector<int32_t>(tokens.begin() + 3, tokens.end() - 1);
}

/// The one stream that holds rows.
void read_rows(Reader& in, int64_t rows, int64_t groups, int64_t width, LlamaState& state) {
  const int64_t channels = groups * width;
  for (int64_t i = 0; i < rows; ++i) {
    const int32_t position = in.get<int32_t>();
    in.expect(position == i, "position of a row", position, i);
    for (uint32_t sequences = in.get<uint32_t>(); sequences > 0; --sequences) in.get<int32_t>();
  }
  state.form.transposed = in.get<uint32_t>() != 0;
  const uint32_t layers = in.get<uint32_t>();
  if (state.form.version == 4) in.get<uint64_t>();
  std::vector<Tensor> keys, values;
  for (uint32_t layer = 0; layer < layers; ++layer) {
    state.form.key_type = scalar_of(in.get<int32_t>(), in.path());
    const int64_t row_bytes = static_cast<int64_t>(in.get<uint64_t>());
    const int64_t expected = channels * static_cast<int64_t>(at::elementSize(state.form.key_type));
    in.expect(row_bytes == expected, "bytes of a key row", row_bytes, expected);
    keys.push_back(in.get({rows, groups, width}, state.form.key_type).transpose(0, 1));
  }
  for (uint32_t layer = 0; layer < layers; ++layer) {
    state.form.value_type = scalar_of(in.get<int32_t>(), in.path());
    const int64_t size = static_cast<int64_t>(at::elementSize(state.form.value_type));
    if (state.form.transposed) {
      const int64_t value_bytes = in.get<uint32_t>();
      in.expect(value_bytes == size, "bytes of a value", value_bytes, size);
      const int64_t found = in.get<uint32_t>();
      in.expect(found == channels, "channels of a value", found, channels);
      values.push_back(in.get({groups, width, rows}, state.form.value_type).transpose(1, 2));
    } else {
      const int64_t row_bytes = static_cast<int64_t>(in.get<uint64_t>());
      in.expect(row_bytes == channels * size, "bytes of a value row", row_bytes, channels * size);
      values.push_back(in.get({rows, groups, width}, state.form.value_type).transpose(0, 1));
    }
  }
  state.k_LGNE = keys.empty() ? Tensor() : separated(at::stack(keys)).contiguous();
  state.v_LGNE = values.empty() ? Tensor() : at::stack(values).contiguous();
}

}  // namespace

std::string write_llama_state(const Tensor& k_LGNE, const Tensor& v_LGNE, const LlamaStateForm& form) {
  CTXC_CHECK(form.version >= 2 && form.version <= 4, ErrorKind::kUsage,
             "2: most builds of 2024 to 2026, 3: llama-cpp-python 0.3.36, 4: b11549",
             "llamacpp-state: unknown version (found {}, expected 2, 3 or 4)", form.version);
  const int64_t layers = k_LGNE.size(0), rows = k_LGNE.size(2), channels = k_LGNE.size(1) * k_LGNE.size(3);
  const Tensor k_LNC =
      interleaved(k_LGNE).to(form.key_type).transpose(1, 2).reshape({layers, rows, channels});
  const Tensor v_LNC = v_LGNE.to(form.value_type).transpose(1, 2).reshape({layers, rows, channels});
  Writer out;
  out.put(kMagic);
  out.put(static_cast<uint32_t>(form.version));
  out.put(static_cast<uint32_t>(rows));
  for (int64_t i = 0; i < rows; ++i) out.put(form.placeholder);
  out.put(static_cast<uint32_t>(form.streams));
  out.put(static_cast<uint32_t>(rows));
  for (int64_t i = 0; i < rows; ++i) {
    out.put(static_cast<int32_t>(i));
    out.put(uint32_t{1});
    out.put(int32_t{0});
  }
  out.put(static_cast<uint32_t>(form.transposed));
  out.put(static_cast<uint32_t>(layers));
  if (form.version == 4) out.put(uint64_t{0});
  for (int64_t layer = 0; layer < layers; ++layer) {
    out.put(ggml_type(form.key_type));
    out.put(static_cast<uint64_t>(channels) * k_LNC.element_size());
    out.put(k_LNC[layer]);
  }
  for (int64_t layer = 0; layer < layers; ++layer) {
    out.put(ggml_type(form.value_type));
    if (form.transposed) {
      out.put(static_cast<uint32_t>(v_LNC.element_size()));
      out.put(static_cast<uint32_t>(channels));
      out.put(v_LNC[layer].t());
    } else {
      out.put(static_cast<uint64_t>(channels) * v_LNC.element_size());
      out.put(v_LNC[layer]);
    }
  }
  for (int64_t stream = 1; stream < form.streams; ++stream) out.put(uint32_t{0});
  return std::move(out.bytes);
}

LlamaState read_llama_state(const std::string& path, int64_t groups, int64_t width) {
  const std::string bytes = read_file(path);
  Reader in(path, bytes);
  LlamaState state;
  const uint32_t magic = in.get<uint32_t>();
  in.expect(magic == kMagic, "magic number", magic, kMagic);
  state.form.version = in.get<uint32_t>();
  in.expect(state.form.version >= 2 && state.form.version <= 4, "version", state.form.version, 4);
  const uint32_t tokens = in.get<uint32_t>();
  for (uint32_t i = 0; i < tokens; ++i) state.tokens.push_back(in.get<int32_t>());
  unwrap(in, state.tokens);
  state.form.streams = in.get<uint32_t>();
  in.expect(state.form.streams >= 1 && state.form.streams <= kMaxStreams, "streams", state.form.streams, 1);
  int64_t found = 0;
  for (int64_t stream = 0; stream < state.form.streams; ++stream) {
    const int64_t rows = in.get<uint32_t>();
    if (rows == 0) continue;
    ++found;
    in.expect(found == 1, "streams with rows", found, 1);
    read_rows(in, rows, groups, width, state);
  }
  in.expect(found == 1, "streams with rows", found, 1);
  in.expect_end();
  if (!state.tokens.empty()) state.form.placeholder = state.tokens[0];
  return state;
}

}  // namespace ctxc
