#include "core/cli.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#define CXXOPTS_NO_REGEX true
#include <cxxopts.hpp>

#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "core/text.h"

namespace ctxc {
namespace {

std::map<std::string, std::function<NamesAndHelp()>>& list_kinds() {
  static std::map<std::string, std::function<NamesAndHelp()>> kinds;
  return kinds;
}

bool is_optional(const CliOption& option) {
  return option.value.starts_with("[");
}

/// "train.lr=3e-4": letters that occur in keys, then '='. A path with '=' in it has a '/' before or is no
/// key.
bool is_override(std::string_view argument) {
  const std::string_view key = argument.substr(0, std::min(argument.find('='), argument.size()));
  return key.size() < argument.size() && !key.empty() &&
         std::all_of(key.begin(), key.end(),
                     [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-' || c == '.'; });
}

std::string list_text(const std::string& kind, bool json) {
  std::vector<std::string> kinds;
  for (const auto& [name, entries] : list_kinds()) kinds.push_back(name);
  const auto found = list_kinds().find(kind);
  CTXC_CHECK(found != list_kinds().end(), ErrorKind::kUsage, did_you_mean(kind, kinds),
             "--list: unknown kind (found '{}', expected one of: {})", kind, join(kinds, ", "));
  const NamesAndHelp entries = found->second();
  if (json) {
    OrderedJson object = OrderedJson::object();
    for (const auto& [name, help] : entries) object[name] = help;
    return object.dump(2) + "\n";
  }
  size_t width = 0;
  for (const auto& [name, help] : entries) width = std::max(width, name.size());
  std::string text;
  for (const auto& [name, help] : entries) text += fmt::format("{:<{}}  {}\n", name, width, help);
  return text;
}

/// One row of --help: the left side, then `help` wrapped beside it.
std::string help_row(const std::string& left, const std::string& help) {
  constexpr size_t kColumn = 26, kWidth = 100;
  std::string text = "  " + left;
  size_t at = text.size();
  if (at + 2 > kColumn) text += '\n', at = 0;
  text += std::string(kColumn - at, ' ');
  at = kColumn;
  for (const std::string& word : split(help, ' ')) {
    if (at > kColumn && at + 1 + word.size() > kWidth) text += "\n" + std::string(kColumn, ' '), at = kColumn;
    if (at > kColumn) text += ' ', ++at;
    text += word;
    at += word.size();
  }
  return text + "\n";
}

std::string command_name(const CliSpec& command) {
  return command.program.substr(command.program.rfind(' ') + 1);
}

}  // namespace

void add_list_kind(const std::string& kind, std::function<NamesAndHelp()> entries) {
  list_kinds()[kind] = std::move(entries);
}

std::vector<CliOption> common_options(const CliSpec& spec) {
  std::vector<CliOption> options;
  if (spec.overrides) {
    options.push_back({"help", "[KEY]", "this text, or what one configuration key (or section) means"});
    options.push_back({"print-config", "", "print the resolved configuration and do nothing"});
  } else {
    options.push_back({"help", "", "this text"});
  }
  options.push_back({"list", "KIND", "what can be named in a configuration: " + [] {
                       std::vector<std::string> kinds;
                       for (const auto& [name, entries] : list_kinds()) kinds.push_back(name);
                       return join(kinds, ", ");
                     }()});
  options.push_back({"quiet", "", "say nothing but warnings and errors"});
  options.push_back({"json", "", "machine-readable result on standard output"});
  options.push_back({"version", "", "version and commit; with --verbose also compiler and libraries"});
  options.push_back({"verbose", "", "say more"});
  options.push_back({"completion", "SHELL", "print completion for bash, zsh or fish"});
  return options;
}

Cli::Cli(const CliSpec& spec, int argc, const char* const* argv) : spec_(spec) {
  const std::vector<CliOption> common = common_options(spec);
  spec_.options.insert(spec_.options.begin(), common.begin(), common.end());
  const std::vector<std::string> arguments(argv + std::min(argc, 1), argv + argc);
  const auto end = std::find(arguments.begin(), arguments.end(), "--");
  read(prepare({arguments.begin(), end}));
  if (end != arguments.end()) positional_.insert(positional_.end(), end + 1, arguments.end());
  if (quiet()) set_log_level(LogLevel::kQuiet);
  if (has("verbose")) set_log_level(LogLevel::kVerbose);
  done_ = answer();
  if (!done_ && !has("help")) check_positional();
}

const CliOption* Cli::find(const std::string& name) const {
  for (const CliOption& option : spec_.options)
    if (option.name == name) return &option;
  return nullptr;
}

/// The value of `option` when it is written as an argument of its own; `next` is that argument or nothing.
std::optional<std::string> Cli::separate_value(const CliOption& option, const std::string* next) const {
  const bool plain = next && (*next == "-" || !next->starts_with("-"));
  if (is_optional(option))
    return plain && !(spec_.overrides && is_override(*next)) ? *next : std::optional<std::string>();
  const bool number = next && next->size() > 1 && std::isdigit(static_cast<unsigned char>((*next)[1]));
  CTXC_CHECK(plain || number, ErrorKind::kUsage, fmt::format("see {} --help", spec_.program),
             "{}: --{} has no value (found {}, expected {})", spec_.program, option.name,
             next ? "'" + *next + "'" : "nothing", option.value);
  return *next;
}

/// Settles what cxxopts has no notion of: "[VALUE]" as the next argument, values that look like options, and
/// unknown names with a hint. Every value leaves as "--name=value".
std::vector<std::string> Cli::prepare(const std::vector<std::string>& arguments) const {
  std::vector<std::string> prepared, names;
  for (const CliOption& option : spec_.options) names.push_back("--" + option.name);
  for (size_t i = 0; i < arguments.size(); ++i) {
    prepared.push_back(arguments[i] == "-h" ? "--help" : arguments[i]);
    const std::string argument = prepared.back(), name = argument.substr(0, argument.find('='));
    if (argument.size() < 2 || argument[0] != '-') continue;
    const CliOption* option = name.starts_with("--") ? find(name.substr(2)) : nullptr;
    const std::string hint = did_you_mean(name, names);
    CTXC_CHECK(option, ErrorKind::kUsage, hint.empty() ? fmt::format("see {} --help", spec_.program) : hint,
               "{}: unknown option (found '{}')", spec_.program, argument);
    if (option->value.empty() || name != argument) continue;
    const auto value = separate_value(*option, i + 1 < arguments.size() ? &arguments[i + 1] : nullptr);
    prepared.back() += "=" + value.value_or("");
    if (value) ++i;
  }
  return prepared;
}

void Cli::read(const std::vector<std::string>& arguments) {
  cxxopts::Options options(spec_.program);
  options.allow_unrecognised_options();  // so that positional arguments come back in order, commas and all
  for (const CliOption& option : spec_.options) {
    if (option.value.empty())
      options.add_options()(option.name, option.help);
    else
      options.add_options()(option.name, option.help, cxxopts::value<std::string>());
  }
  std::vector<const char*> pointers = {spec_.program.c_str()};
  for (const std::string& argument : arguments) pointers.push_back(argument.c_str());
  try {
    const auto result = options.parse(static_cast<int>(pointers.size()), pointers.data());
    for (const auto& item : result.arguments()) {
      const bool is_switch = find(item.key())->value.empty();
      const bool added = values_.emplace(item.key(), is_switch ? "" : item.value()).second;
      CTXC_CHECK(!is_switch || item.value() == "true", ErrorKind::kUsage, "",
                 "{}: --{} takes no value (found '{}')", spec_.program, item.key(), item.value());
      CTXC_CHECK(added || is_switch, ErrorKind::kUsage, "", "{}: --{} is given twice (found '{}' and '{}')",
                 spec_.program, item.key(), values_.at(item.key()), item.value());
    }
    for (const std::string& argument : result.unmatched())
      (spec_.overrides && is_override(argument) ? overrides_ : positional_).push_back(argument);
  } catch (const cxxopts::exceptions::exception& error) {
    throw Error(ErrorKind::kUsage, fmt::format("{}: {}", spec_.program, error.what()),
                fmt::format("see {} --help", spec_.program));
  }
}

void Cli::check_positional() const {
  const int count = static_cast<int>(positional_.size());
  const std::string hint = fmt::format("see {} --help", spec_.program);
  CTXC_CHECK(count >= spec_.min_positional, ErrorKind::kUsage, hint,
             "{}: an argument is missing (expected {})", spec_.program, spec_.usage);
  CTXC_CHECK(count <= spec_.max_positional, ErrorKind::kUsage, hint,
             "{}: surplus argument (found '{}', expected {})", spec_.program,
             positional_[static_cast<size_t>(spec_.max_positional)], spec_.usage);
}

bool Cli::answer() const {
  std::string text;
  if (has("completion")) {
    text = completion_script(spec_, get("completion"));
  } else if (has("version")) {
    text = version_text(has("verbose"));
  } else if (help() == "") {
    text = usage();
  } else if (has("list")) {
    text = list_text(get("list"), json());
  } else {
    return false;
  }
  std::fputs(text.c_str(), stdout);
  return true;
}

bool Cli::has(const std::string& option) const {
  CTXC_CHECK(find(option), ErrorKind::kInternal, "", "{}: asked for an undeclared option (found '{}')",
             spec_.program, option);
  return values_.count(option) > 0;
}

std::string Cli::get(const std::string& option, const std::string& fallback) const {
  return has(option) ? values_.at(option) : fallback;
}

std::string Cli::require(const std::string& option) const {
  CTXC_CHECK(has(option), ErrorKind::kUsage, fmt::format("see {} --help", spec_.program),
             "{}: --{} is missing (expected --{} {})", spec_.program, option, option, find(option)->value);
  return values_.at(option);
}

int64_t Cli::get_int(const std::string& option, int64_t fallback) const {
  if (!has(option)) return fallback;
  const std::string& text = values_.at(option);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  CTXC_CHECK(error == std::errc() && end == text.data() + text.size(), ErrorKind::kUsage, "",
             "{}: --{}: no whole number (found '{}', expected {})", spec_.program, option, text,
             find(option)->value);
  return value;
}

std::vector<std::string> Cli::get_list(const std::string& option) const {
  std::vector<std::string> items = split(get(option), ',');
  for (std::string& item : items) {
    item = std::string(trim(item));
    CTXC_CHECK(!item.empty(), ErrorKind::kUsage, "", "{}: --{}: an item of the list is empty (found '{}')",
               spec_.program, option, get(option));
  }
  return items;
}

std::optional<std::string> Cli::help() const {
  if (!has("help")) return std::nullopt;
  return values_.at("help");
}

std::string Cli::usage() const {
  std::string text = fmt::format("{}\n\nusage: {}\n", spec_.summary, spec_.usage);
  for (const CliSpec& command : spec_.commands) text += fmt::format("       {}\n", command.usage);
  if (!spec_.commands.empty()) {
    text += fmt::format("\ncommands ({} COMMAND --help tells more):\n", spec_.program);
    for (const CliSpec& command : spec_.commands) text += help_row(command_name(command), command.summary);
  }
  const size_t common = common_options(spec_).size();
  const auto rows = [&](size_t first, size_t last) {
    for (size_t i = first; i < last; ++i) {
      const CliOption& option = spec_.options[i];
      text += help_row("--" + option.name + (option.value.empty() ? "" : " " + option.value), option.help);
    }
  };
  if (spec_.options.size() > common) text += "\noptions:\n";
  rows(common, spec_.options.size());
  text += "\ncommon options:\n";
  rows(0, common);
  if (!spec_.epilog.empty()) text += "\n" + spec_.epilog + "\n";
  return text;
}

}  // namespace ctxc
