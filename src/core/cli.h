// The command line shared by the five programs: cxxopts wrapped, with common flags (--help [KEY], --version,
// --verbose,
// --list KIND, --quiet, --json, --completion SHELL, --print-config), key=value overrides, and run_main(),
// which turns exceptions into messages and exit codes.
#pragma once
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace ctxc {

struct CliOption {
  std::string name;   ///< long name without dashes
  std::string value;  ///< "" for a switch, else the placeholder ("DIR"); "[DIR]" if the value may be left out
  std::string help;
};

struct CliSpec {
  std::string program;  ///< "ctxc-train"
  std::string summary;  ///< what it does, one or two lines
  std::string usage;    ///< "ctxc-train CONFIG [key=value…]"
  std::vector<CliOption> options;
  bool overrides = false;  ///< positional arguments with '=' are configuration overrides
};

class Cli {
 public:
  /// Error kUsage (with did-you-mean) on unknown options or missing values. Handles --version and
  /// --completion itself: then done() is true and the program returns 0.
  Cli(const CliSpec& spec, int argc, const char* const* argv);
  bool done() const { return done_; }
  bool has(const std::string& option) const;
  std::string get(const std::string& option, const std::string& fallback = "") const;
  int64_t get_int(const std::string& option, int64_t fallback) const;
  std::vector<std::string> get_list(const std::string& option) const;  ///< comma-separated
  const std::vector<std::string>& positional() const { return positional_; }
  const std::vector<std::string>& overrides() const { return overrides_; }
  bool quiet() const { return has("quiet"); }
  bool json() const { return has("json"); }
  /// "" for plain --help, the key for --help KEY, nothing without --help. Plain help prints usage() and
  /// returns 0.
  std::optional<std::string> help() const;
  std::string usage() const;

 private:
  CliSpec spec_;
  std::map<std::string, std::string> values_;
  std::vector<std::string> positional_, overrides_;
  bool done_ = false;
};

/// Runs `body` and maps Error → render() on stderr and its exit code, Stopped → 128 + signal, std::bad_alloc
/// and the allocator errors of LibTorch ("can't allocate memory") → 4, anything else → "error: internal:
/// …", 1.
int run_main(const std::function<int()>& body);

std::string version_text(bool verbose);
/// Lines the model layer adds to --version --verbose (LibTorch, CPU capability, threads), so that core needs
/// none of it.
void add_version_line(std::function<std::string()> line);

}  // namespace ctxc
