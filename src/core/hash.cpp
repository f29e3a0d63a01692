#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/file.h"

namespace ctxc {
namespace {

class Digest {
 public:
  explicit Digest(const EVP_MD* algorithm) : context_(EVP_MD_CTX_new()) {
    if (!context_ || EVP_DigestInit_ex(context_, algorithm, nullptr) != 1)
      throw Error(ErrorKind::kInternal, "digest: OpenSSL does not offer this algorithm");
  }
  ~Digest() { EVP_MD_CTX_free(context_); }
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  void update(const void* data, size_t size) { EVP_DigestUpdate(context_, data, size); }
  std::string hex() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> bytes;
    unsigned size = 0;
    EVP_DigestFinal_ex(context_, bytes.data(), &size);
    std::string text;
    for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", bytes[i]);
    return text;
  }

 private:
  EVP_MD_CTX* context_;
};

std::string hex_of_file(const std::string& path, const EVP_MD* algorithm) {
  Digest digest(algorithm);
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  std::vector<char> buffer(size_t{1} << 20);
  ssize_t got = fd < 0 ? -1 : 0;
  while (fd >= 0 && ((got = read(fd, buffer.data(), buffer.size())) > 0 || (got < 0 && errno == EINTR)))
    if (got > 0) digest.update(buffer.data(), static_cast<size_t>(got));
  const int error = errno;
  if (fd >= 0) close(fd);
  CTXC_CHECK(got == 0, ErrorKind::kInput, "", "{}: cannot be read: {}", path, std::strerror(error));
  return digest.hex();
}

}  // namespace

Sha256::Sha256() : context_(new Digest(EVP_sha256())) {}
Sha256::~Sha256() {
  delete static_cast<Digest*>(context_);
}
void Sha256::update(std::span<const std::byte> bytes) {
  static_cast<Digest*>(context_)->update(bytes.data(), bytes.size());
}
void Sha256::update(std::string_view text) {
  update(std::as_bytes(std::span(text)));
}
std::string Sha256::hex() {
  return static_cast<Digest*>(context_)->hex();
}

std::string sha256_hex(std::span<const std::byte> bytes) {
  Sha256 hash;
  hash.update(bytes);
  return hash.hex();
}
std::string sha256_hex(std::string_view text) {
  return sha256_hex(std::as_bytes(std::span(text)));
}
std::string sha256_hex_of_file(const std::string& path) {
  return hex_of_file(path, EVP_sha256());
}
std::string md5_hex_of_file(const std::string& path) {
  return hex_of_file(path, EVP_md5());
}

}  // namespace ctxc
