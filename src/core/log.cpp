#include "core/log.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <mutex>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"

namespace ctxc {
namespace {

// Loader threads warn while the training thread draws its progress line.
std::mutex mutex;
LogLevel current_level = LogLevel::kNormal;
bool line_open = false;  ///< a progress line stands on the terminal without its end

void print_line(const std::string& text) {
  std::lock_guard lock(mutex);
  std::fprintf(stderr, "%s%s\n", std::exchange(line_open, false) ? "\r\033[K" : "", text.c_str());
}

bool is_quiet() {
  std::lock_guard lock(mutex);
  return current_level == LogLevel::kQuiet;
}

double now_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// A killed run may leave half a line; what is appended must not grow out of it.
void drop_partial_line(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return;
  const std::string text = read_file(path);
  const size_t end = text.rfind('\n') + 1;  // npos + 1 is 0: no complete line at all
  if (end != text.size()) std::filesystem::resize_file(path, end, error);
}

}  // namespace

void set_log_level(LogLevel level) {
  std::lock_guard lock(mutex);
  current_level = level;
}

void log_info(const std::string& text) {
  if (!is_quiet()) print_line(text);
}

void log_warning(const std::string& text) {
  print_line("warning: " + text);
}

JsonLinesFile::JsonLinesFile(const std::string& path, bool append) : path_(path) {
  if (append) drop_partial_line(path);
  out_.open(path, append ? std::ios::app : std::ios::trunc);
  CTXC_CHECK(out_.is_open(), ErrorKind::kDisk, "choose an output folder you can write to",
             "{}: cannot be opened for writing: {}", path, std::strerror(errno));
}

void JsonLinesFile::write(const OrderedJson& object) {
  out_ << object.dump(-1, ' ', false, OrderedJson::error_handler_t::replace) << '\n' << std::flush;
  CTXC_CHECK(out_.good(), ErrorKind::kDisk, "free some space, or choose another output folder",
             "{}: cannot be written ({} free)", path_, human_bytes(free_disk_bytes(path_)));
}

Progress::Progress(std::string what, int64_t total, double plain_seconds)
    : what_(std::move(what)),
      total_(total),
      plain_seconds_(plain_seconds),
      started_(now_seconds()),
      terminal_(isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  finish();
}

void Progress::update(int64_t done, const std::string& detail) {
  const double now = now_seconds();
  // A resumed run starts in the middle: the pace counts from the first update on.
  if (first_ < 0) first_ = done, started_ = now;
  done_ = done;
  detail_ = detail;
  open_ = true;
  if (now - last_print_ < (terminal_ ? 0.1 : plain_seconds_)) return;
  last_print_ = now;
  print(now);
}

void Progress::print(double now) {
  open_ = false;
  if (is_quiet()) return;
  std::string text = fmt::format("{} {}", what_, done_);
  if (total_ > 0) text += fmt::format("/{} ({} %)", total_, 100 * done_ / total_);
  if (!detail_.empty()) text += " · " + detail_;
  if (done_ < total_ && done_ > first_) {
    const double pace = (now - started_) / static_cast<double>(done_ - first_);
    text += " · ETA " + human_duration(pace * static_cast<double>(total_ - done_));
  }
  if (!terminal_) return print_line(text);
  std::lock_guard lock(mutex);
  std::fprintf(stderr, "\r%s\033[K", text.c_str());
  line_open = true;
}

void Progress::finish() {
  if (open_) print(now_seconds());
  std::lock_guard lock(mutex);
  if (terminal_ && std::exchange(line_open, false)) std::fputc('\n', stderr);
}

}  // namespace ctxc
