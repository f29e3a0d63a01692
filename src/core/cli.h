// The command line shared by the five programs: cxxopts wrapped, with common flags (--help [KEY], --version,
// --verbose,
// --list KIND, --quiet, --json, --completion SHELL, --print-config), key=value overrides, commands
// ("ctxc-eval score"), and run_main(), which turns exceptions into messages and exit codes.
//
// A program with one task:
//   int main(int argc, char** argv) {
//     return ctxc::run_main([&] {
//       const ctxc::Cli cli({.program = "ctxc-train", .summary = "…", .usage = "ctxc-train CONFIG
//       [key=value…]",
//                            .options = {{"resume", "[DIR]", "…"}}, .max_positional = 1, .overrides = true},
//                           argc, argv);
//       if (cli.done()) return 0;  // --help, --version, --list and --completion have been answered
//       …
//     });
//   }
// A program with commands, where ctxc-eval without a command evaluates a configuration:
//     return ctxc::run_main([&] {
//       ctxc::Subcommands program("ctxc-eval", "…");
//       program.add("score", {.summary = "…", .usage = "ctxc-eval score --gold FILE …", .options = {…}},
//       run_score); program.otherwise({.summary = "…", .usage = "ctxc-eval CONFIG …", .overrides = true},
//       run_evaluation); return program.run(argc, argv);  // calls int run_score(const Cli&), unless that Cli
//       is done()
//     });
#pragma once
#include <cstdint>
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
  std::string program = {};             ///< "ctxc-train", "ctxc-eval score" (Subcommands fills it in)
  std::string summary = {};             ///< what it does, one or two lines
  std::string usage = {};               ///< "ctxc-train CONFIG [key=value…]"
  std::vector<CliOption> options = {};  ///< beside the common ones
  int min_positional = 0;               ///< fewer or more positional arguments are Error kUsage
  int max_positional = 0;
  bool overrides =
      false;  ///< arguments key=value override the configuration; adds --help KEY, --print-config
  std::string epilog = {};             ///< printed below the options of --help
  std::vector<CliSpec> commands = {};  ///< Subcommands fills it in
};

class Cli {
 public:
  /// Error kUsage (with did-you-mean) on unknown options, missing, surplus or repeated values and arguments.
  /// Answers
  /// --help without KEY, --version, --list and --completion itself: then done() is true and the program
  /// returns 0.
  /// --quiet and --verbose set the log level.
  Cli(const CliSpec& spec, int argc, const char* const* argv);
  bool done() const { return done_; }
  bool has(const std::string& option) const;
  /// The value, `fallback` where the option is absent. "" for a switch and for an option given without its
  /// "[VALUE]".
  std::string get(const std::string& option, const std::string& fallback = "") const;
  /// The value, or Error kUsage that names the option.
  std::string require(const std::string& option) const;
  int64_t get_int(const std::string& option, int64_t fallback) const;
  std::vector<std::string> get_list(
      const std::string& option) const;  ///< comma-separated; blanks are trimmed
  const std::vector<std::string>& positional() const { return positional_; }
  const std::vector<std::string>& overrides() const { return overrides_; }
  bool quiet() const { return has("quiet"); }
  bool json() const { return has("json"); }
  /// The key of --help KEY (programs with overrides), "" for plain --help, nothing without --help.
  std::optional<std::string> help() const;
  std::string usage() const;

 private:
  std::vector<std::string> prepare(const std::vector<std::string>& arguments) const;
  std::optional<std::string> separate_value(const CliOption& option, const std::string* next) const;
  void read(const std::vector<std::string>& arguments);
  void check_positional() const;
  bool answer() const;
  const CliOption* find(const std::string& name) const;
  std::string placeholder(const std::string& option) const;
  CliSpec spec_;
  std::map<std::string, std::string> values_;
  std::vector<std::string> positional_, overrides_;
  bool done_ = false;
};

/// A program whose first argument may name a command; each command has a command line of its own.
class Subcommands {
 public:
  using Body = std::function<int(const Cli&)>;
  Subcommands(std::string program, std::string summary);
  Subcommands& add(const std::string& name, CliSpec spec, Body body);
  /// What runs when the first argument is no command. Without it such arguments are Error kUsage.
  Subcommands& otherwise(CliSpec spec, Body body);
  /// Finds the command (after any leading --quiet, --json, --verbose) and runs its body unless its Cli is
  /// done().
  int run(int argc, const char* const* argv) const;

 private:
  CliSpec own_;
  Body otherwise_;
  std::vector<std::pair<std::string, Body>> bodies_;
};

/// Runs `body` and maps Error → render() on stderr and its exit code, Stopped → 128 + signal, std::bad_alloc
/// and the allocator errors of LibTorch ("can't allocate memory") → 4, anything else → "error: internal:
/// …", 1. Standard output that could not be written (full disk) is exit code 7.
int run_main(const std::function<int()>& body);

/// "ctxc 0.1.0 (commit)"; verbose adds compiler, build type, LibTorch and the lines of add_version_line().
std::string version_text(bool verbose);
/// Lines the model layer adds to --version --verbose (LibTorch, CPU capability, threads), so that core needs
/// none of it.
void add_version_line(std::function<std::string()> line);

using NamesAndHelp = std::vector<std::pair<std::string, std::string>>;
/// Adds a KIND to --list ("compressors"); `entries` is called when it is asked for. Call it before a Cli is
/// made; a second call for the same kind replaces the first.
void add_list_kind(const std::string& kind, std::function<NamesAndHelp()> entries);

/// The options every program has, before those of `spec`.
std::vector<CliOption> common_options(const CliSpec& spec);
/// Completion for bash, zsh or fish; Error kUsage for another shell.
std::string completion_script(const CliSpec& spec, const std::string& shell);

}  // namespace ctxc
