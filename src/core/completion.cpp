#include <algorithm>

#include "core/cli.h"
#include "core/error.h"
#include "core/text.h"

namespace ctxc {
namespace {

std::string name_of(const CliSpec& command) {
  return command.program.substr(command.program.rfind(' ') + 1);
}

/// The options of a command, with the common ones (which the program's own spec holds already).
std::vector<CliOption> options_of(const CliSpec& command) {
  std::vector<CliOption> options = common_options(command);
  options.insert(options.end(), command.options.begin(), command.options.end());
  return options;
}

std::string option_words(const std::vector<CliOption>& options) {
  std::vector<std::string> words;
  for (const CliOption& option : options) words.push_back("--" + option.name);
  return join(words, " ");
}

std::string command_words(const CliSpec& spec) {
  std::vector<std::string> words;
  for (const CliSpec& command : spec.commands) words.push_back(name_of(command));
  return join(words, " ");
}

std::string function_name(const CliSpec& spec) {
  std::string name = "_" + spec.program;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

/// For text inside single quotes of a shell; `also` are characters that the place gives a meaning of its own.
std::string quoted(const std::string& text, std::string_view also = "") {
  std::string result;
  for (char letter : text) {
    if (letter == '\'')
      result += "'\\''";
    else
      result += (also.find(letter) != std::string_view::npos ? "\\" : "") + std::string(1, letter);
  }
  return result;
}

std::string bash_script(const CliSpec& spec) {
  const std::string function = function_name(spec);
  std::string text = fmt::format(
      "{}() {{\n"
      "  local current=${{COMP_WORDS[COMP_CWORD]}} options commands=''\n"
      "  case \"${{COMP_WORDS[1]}}\" in\n",
      function);
  for (const CliSpec& command : spec.commands)
    text += fmt::format("    {}) options='{}' ;;\n", name_of(command), option_words(options_of(command)));
  text += fmt::format("    *) options='{}' ;;\n  esac\n", option_words(spec.options));
  text += fmt::format("  [ \"$COMP_CWORD\" = 1 ] && commands='{}'\n", command_words(spec));
  text += fmt::format(
      "  case \"$current\" in\n"
      "    -*) COMPREPLY=($(compgen -W \"$options\" -- \"$current\")) ;;\n"
      "    *) COMPREPLY=($(compgen -W \"$commands\" -- \"$current\") $(compgen -f -- \"$current\")) ;;\n"
      "  esac\n"
      "}}\n"
      "complete -o filenames -F {} {}\n",
      function, spec.program);
  return text;
}

std::string zsh_arguments(const std::vector<CliOption>& options) {
  std::string text = "_arguments";
  for (const CliOption& option : options) {
    text += fmt::format(" \\\n        '--{}[{}]", option.name, quoted(option.help, "[]:"));
    if (option.value.starts_with("["))
      text += fmt::format("::{}:_files'", quoted(option.value.substr(1, option.value.size() - 2), ":"));
    else
      text += option.value.empty() ? "'" : fmt::format(":{}:_files'", quoted(option.value, ":"));
  }
  return text + " \\\n        '*:file:_files'";
}

std::string zsh_script(const CliSpec& spec) {
  const std::string function = function_name(spec);
  std::string text = fmt::format("#compdef {}\n{}() {{\n", spec.program, function);
  if (!spec.commands.empty()) {
    text += "  if (( CURRENT == 2 )); then\n    local -a commands=(\n";
    for (const CliSpec& command : spec.commands)
      text += fmt::format("      '{}:{}'\n", name_of(command), quoted(command.summary, ":"));
    text += "    )\n    _describe command commands\n  fi\n";
  }
  text += "  case \"$words[2]\" in\n";
  for (const CliSpec& command : spec.commands)
    text += fmt::format("    {}) {} ;;\n", name_of(command), zsh_arguments(options_of(command)));
  text += fmt::format("    *) {} ;;\n  esac\n}}\ncompdef {} {}\n", zsh_arguments(spec.options), function,
                      spec.program);
  return text;
}

std::string fish_line(const CliSpec& spec, const std::string& condition, const CliOption& option) {
  return fmt::format("complete -c {} {}-l {} -d '{}'{}\n", spec.program, condition, option.name,
                     quoted(option.help, "\\"),
                     option.value.empty() || option.value.starts_with("[") ? "" : " -r");
}

std::string fish_script(const CliSpec& spec) {
  std::string text;
  const std::string names = command_words(spec);
  const std::string none =
      names.empty() ? "" : fmt::format("-n 'not __fish_seen_subcommand_from {}' ", names);
  for (const CliOption& option : spec.options) text += fish_line(spec, none, option);
  for (const CliSpec& command : spec.commands) {
    text += fmt::format("complete -c {} -n __fish_use_subcommand -a {} -d '{}'\n", spec.program,
                        name_of(command), quoted(command.summary, "\\"));
    const std::string condition = fmt::format("-n '__fish_seen_subcommand_from {}' ", name_of(command));
    for (const CliOption& option : options_of(command)) text += fish_line(spec, condition, option);
  }
  return text;
}

}  // namespace

std::string completion_script(const CliSpec& spec, const std::string& shell) {
  if (shell == "bash") return bash_script(spec);
  if (shell == "zsh") return zsh_script(spec);
  if (shell == "fish") return fish_script(spec);
  throw Error(ErrorKind::kUsage,
              fmt::format("--completion: unknown shell (found '{}', expected bash, zsh or fish)", shell),
              did_you_mean(shell, {"bash", "zsh", "fish"}));
}

}  // namespace ctxc
