#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/file.h"

namespace ctxc {
namespace {

constexpr size_t kChunk = size_t{256} << 10;

/// Hands out the bytes of a file or of standard input, in chunks.
class Input {
 public:
  explicit Input(const std::string& path) : name_(path == "-" ? "<stdin>" : path), buffer_(kChunk) {
    fd_ = path == "-" ? STDIN_FILENO : open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_ < 0) fail(std::strerror(errno));
  }
  ~Input() {
    if (fd_ > STDIN_FILENO) close(fd_);
  }
  Input(const Input&) = delete;
  Input& operator=(const Input&) = delete;

  /// The next bytes; empty at the end. At least two at the beginning if there are two: what tells gzip from
  /// text.
  std::string_view next() {
    size_t size = 0;
    const size_t wanted = first_ ? 2 : 1;
    first_ = false;
    while (size < wanted) {
      const ssize_t got = read(fd_, buffer_.data() + size, buffer_.size() - size);
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) fail(std::strerror(errno));
      if (got == 0) break;
      size += static_cast<size_t>(got);
    }
    return {buffer_.data(), size};
  }

  [[noreturn]] void fail(const std::string& why) const {
    throw Error(ErrorKind::kInput, fmt::format("{}: cannot be read: {}", name_, why));
  }
  [[noreturn]] void fail_gzip(const std::string& why) const {
    throw Error(ErrorKind::kInput, fmt::format("{}: broken gzip stream: {}", name_, why),
                "fetch or make the file again");
  }

 private:
  std::string name_;
  std::vector<char> buffer_;
  int fd_ = -1;
  bool first_ = true;
};

/// Cuts a byte stream into lines. A line that lies inside one chunk is passed on without a copy.
class LineCutter {
 public:
  explicit LineCutter(const std::function<void(std::string_view, int64_t)>& line) : line_(line) {}
  void add(std::string_view bytes) {
    for (size_t end; (end = bytes.find('\n')) != std::string_view::npos; bytes.remove_prefix(end + 1)) {
      if (pending_.empty()) {
        emit(bytes.substr(0, end));
      } else {
        pending_ += bytes.substr(0, end);
        emit(pending_);
        pending_.clear();
      }
    }
    pending_ += bytes;
  }
  void finish() {
    if (!pending_.empty()) emit(pending_);
  }

 private:
  void emit(std::string_view text) {
    if (!text.empty() && text.back() == '\r') text.remove_suffix(1);
    line_(text, ++number_);
  }
  const std::function<void(std::string_view, int64_t)>& line_;
  std::string pending_;
  int64_t number_ = 0;
};

/// zlib's inflate over gzip members (a file may hold several, one after the other, and zero padding at its
/// end).
class Inflater {
 public:
  explicit Inflater(const Input& input) : input_(input), out_(kChunk) {
    if (inflateInit2(&stream_, 15 + 16) != Z_OK) throw std::bad_alloc();
  }
  ~Inflater() { inflateEnd(&stream_); }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  void add(std::string_view bytes, LineCutter& lines) {
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
    stream_.avail_in = static_cast<uInt>(bytes.size());
    while (stream_.avail_in > 0 || more_output_) {
      if (between_members_ && !begin_member()) return;
      stream_.next_out = reinterpret_cast<Bytef*>(out_.data());
      stream_.avail_out = static_cast<uInt>(out_.size());
      const int status = inflate(&stream_, Z_NO_FLUSH);
      if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
        input_.fail_gzip(stream_.msg ? stream_.msg : "unexpected data");
      lines.add({out_.data(), out_.size() - stream_.avail_out});
      // A full output buffer may mean that zlib holds back more, even when it has taken all input.
      more_output_ = status == Z_OK && stream_.avail_out == 0;
      between_members_ = status == Z_STREAM_END;
      if (status == Z_BUF_ERROR) return;
    }
  }
  void finish() const {
    if (!between_members_) input_.fail_gzip("it ends too early (found the end of the file inside a member)");
  }

 private:
  /// Skips zero padding; false if nothing follows.
  bool begin_member() {
    while (stream_.avail_in > 0 && *stream_.next_in == 0)
      ++stream_.next_in, --stream_.avail_in, padded_ = true;
    if (stream_.avail_in == 0) return false;
    if (padded_ || *stream_.next_in != 0x1f) input_.fail_gzip("other data follows its end");
    inflateReset(&stream_);
    between_members_ = false;
    return true;
  }
  const Input& input_;
  z_stream stream_ = {};
  std::vector<char> out_;
  bool more_output_ = false, between_members_ = false, padded_ = false;
};

}  // namespace

void for_each_line(const std::string& path, const std::function<void(std::string_view, int64_t)>& line) {
  Input input(path);
  LineCutter lines(line);
  std::string_view bytes = input.next();
  if (bytes.starts_with("\x1f\x8b")) {
    Inflater inflater(input);
    for (; !bytes.empty(); bytes = input.next()) inflater.add(bytes, lines);
    inflater.finish();
  } else {
    for (; !bytes.empty(); bytes = input.next()) lines.add(bytes);
  }
  lines.finish();
}

}  // namespace ctxc
