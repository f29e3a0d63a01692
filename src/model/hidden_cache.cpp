#include "model/hidden_cache.h"

#include <fmt/ranges.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <unordered_map>

#include "core/error.h"
#include "core/log.h"
#include "core/text.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

constexpr size_t kDigest = 64;  ///< hexadecimal digits of SHA-256
constexpr size_t kHeader = kDigest + sizeof(int64_t);

std::string lock_folder(const std::string& folder) {
  make_directories(folder);
  return folder;
}

/// What tells two bases apart: shape, and a sample of the weights.
std::string identity_of(const Backbone& backbone) {
  Sha256 hash;
  hash.update(backbone.config().to_json().dump());
  for (const auto& [name, weight] : backbone.weights()) {
    const Tensor sample = weight.detach().flatten().slice(0, 0, 256).to(at::kCPU, at::kFloat).contiguous();
    hash.update(name);
    hash.update(std::string_view(static_cast<const char*>(sample.const_data_ptr()), sample.nbytes()));
  }
  hash.update(fmt::format("{}", static_cast<int>(backbone.product_dtype())));
  return hash.hex();
}

}  // namespace

struct HiddenCache::File {
  File(std::string file, uint64_t states, uint64_t width) : path(std::move(file)), row(2 * states * width) {
    std::ofstream(path, std::ios::binary | std::ios::app);
    stream.open(path, std::ios::binary | std::ios::in | std::ios::out);
    CTXC_CHECK(stream.is_open(), ErrorKind::kDisk, "choose a folder you can write to",
               "{}: cannot be opened for writing: {}", path, std::strerror(errno));
    index();
  }
  /// Bytes of a record of so many tokens behind its header.
  uint64_t body(int64_t tokens) const { return row * static_cast<uint64_t>(tokens); }
  void index() {
    const uint64_t size = fs::file_size(path);
    std::array<char, kHeader> header{};
    while (end + kHeader <= size) {
      stream.seekg(static_cast<std::streamoff>(end));
      stream.read(header.data(), kHeader);
      int64_t tokens = 0;
      std::memcpy(&tokens, header.data() + kDigest, sizeof tokens);
      if (!stream.good() || tokens <= 0 || end + kHeader + body(tokens) > size) break;
      place[std::string(header.data(), kDigest)] = {end + kHeader, tokens};
      end += kHeader + body(tokens);
    }
    if (end < size) fs::resize_file(path, end);
    stream.clear();
  }

  std::string path;
  uint64_t row, end = 0;  ///< bytes of a token; of the file
  std::fstream stream;
  std::unordered_map<std::string, std::pair<uint64_t, int64_t>> place;  ///< offset, tokens
  bool told_full = false;
};

HiddenCache::HiddenCache(std::string folder, const Backbone& backbone, uint64_t max_bytes)
    : folder_(std::move(folder)),
      base_(identity_of(backbone)),
      max_bytes_(max_bytes),
      width_(backbone.config().hidden_size),
      lock_(lock_folder(folder_)) {
  CTXC_CHECK(!backbone.trainable(), ErrorKind::kUsage, "set train.hidden_cache: null",
             "train.hidden_cache: the states of a base that trains change with every step");
}

HiddenCache::~HiddenCache() = default;

HiddenCache::File& HiddenCache::open(const HiddenRequest& request) {
  std::unique_ptr<File>& file = files_[request];
  if (!file) {
    const std::string key = sha256_hex(
        fmt::format("{} {} {} {}", base_, fmt::join(request.indices, ","), request.layers, request.piece));
    file = std::make_unique<File>(fmt::format("{}/hidden-{}.bin", folder_, key.substr(0, 16)),
                                  request.indices.size(), static_cast<uint64_t>(width_));
  }
  return *file;
}

std::vector<Tensor> HiddenCache::find(const HiddenRequest& request, const std::string& tokens_sha256) {
  File& file = open(request);
  const auto found = file.place.find(tokens_sha256);
  if (found == file.place.end()) {
    ++misses_;
    return {};
  }
  const auto& [offset, tokens] = found->second;
  Tensor states = at::empty({static_cast<int64_t>(request.indices.size()), tokens, width_}, at::kBFloat16);
  file.stream.seekg(static_cast<std::streamoff>(offset));
  file.stream.read(static_cast<char*>(states.mutable_data_ptr()),
                   static_cast<std::streamsize>(states.nbytes()));
  CTXC_CHECK(file.stream.good(), ErrorKind::kDisk, "remove the file: it is made again",
             "{}: a record cannot be read", file.path);
  ++hits_;
  return states.unbind(0);
}

void HiddenCache::store(const HiddenRequest& request, const std::string& tokens_sha256,
                        const std::vector<Tensor>& states_TD) {
  File& file = open(request);
  const int64_t tokens = states_TD.at(0).size(0);
  if (tokens == 0 || file.place.count(tokens_sha256)) return;
  if (file.end + kHeader + file.body(tokens) > max_bytes_) {
    if (!file.told_full)
      log_info(fmt::format("{}: full ({}), further contexts are read by the base every time", file.path,
                           human_bytes(file.end)));
    file.told_full = true;
    return;
  }
  const Tensor states = at::stack(states_TD).to(at::kCPU, at::kBFloat16).contiguous();
  file.stream.seekp(static_cast<std::streamoff>(file.end));
  file.stream.write(tokens_sha256.data(), kDigest);
  file.stream.write(reinterpret_cast<const char*>(&tokens), sizeof tokens);
  file.stream.write(static_cast<const char*>(states.const_data_ptr()),
                    static_cast<std::streamsize>(states.nbytes()));
  file.stream.flush();
  CTXC_CHECK(file.stream.good(), ErrorKind::kDisk, "free some space, or leave hidden_cache empty",
             "{}: cannot be written ({} free)", file.path, human_bytes(free_disk_bytes(folder_)));
  file.place[tokens_sha256] = {file.end + kHeader, tokens};
  file.end += kHeader + file.body(tokens);
}

}  // namespace ctxc
