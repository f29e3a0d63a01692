// What a run says: levels on stderr, a progress line on a terminal (plain lines elsewhere), JSON lines in a
// file. Only this module and the mains print.
#pragma once
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>

#include "core/json.h"

namespace ctxc {

enum class LogLevel { kQuiet, kNormal, kVerbose };
void set_log_level(LogLevel level);
void log_info(const std::string& text);     ///< one line on stderr; silent when quiet
void log_warning(const std::string& text);  ///< "warning: …", also when quiet

/// One object per line, flushed line by line so that a killed run keeps its log. Appends (resume) or starts
/// anew.
class JsonLinesFile {
 public:
  JsonLinesFile(const std::string& path, bool append);  ///< kDisk
  void write(const OrderedJson& object);                ///< kDisk

 private:
  std::string path_;
  std::ofstream out_;
};

/// Progress with ETA: rewritten in place on a terminal, a plain line at most every `plain_seconds` elsewhere.
class Progress {
 public:
  Progress(std::string what, int64_t total, double plain_seconds = 30);
  ~Progress();
  /// `done` of total; `detail` e.g. "loss 2.31 · 812 tok/s · data wait 1 %".
  void update(int64_t done, const std::string& detail);
  /// Prints what the last update() kept back and ends the line.
  void finish();

 private:
  void print(double now);
  std::string what_, detail_;
  int64_t total_, first_ = -1, done_ = 0;
  double plain_seconds_, started_, last_print_ = -1e9;
  bool terminal_, open_ = false;
};

}  // namespace ctxc
