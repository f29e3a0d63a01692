#include "core/cli.h"
#include "core/error.h"
#include "core/text.h"

namespace ctxc {

Subcommands::Subcommands(std::string program, std::string summary) {
  own_.usage = program + " COMMAND …";
  own_.program = std::move(program);
  own_.summary = std::move(summary);
}

Subcommands& Subcommands::add(const std::string& name, CliSpec spec, Body body) {
  spec.program = own_.program + " " + name;
  own_.commands.push_back(std::move(spec));
  bodies_.emplace_back(name, std::move(body));
  return *this;
}

Subcommands& Subcommands::otherwise(CliSpec spec, Body body) {
  spec.program = own_.program;
  if (spec.summary.empty()) spec.summary = own_.summary;
  spec.commands = std::move(own_.commands);
  own_ = std::move(spec);
  otherwise_ = std::move(body);
  return *this;
}

int Subcommands::run(int argc, const char* const* argv) const {
  std::vector<const char*> arguments(argv, argv + argc);
  size_t at = 1;
  const auto is_common_switch = [](const std::string& argument) {
    return argument == "--quiet" || argument == "--json" || argument == "--verbose";
  };
  while (at < arguments.size() && is_common_switch(arguments[at])) ++at;
  const std::string first = at < arguments.size() ? arguments[at] : "";
  std::vector<std::string> names;
  for (size_t i = 0; i < bodies_.size(); ++i) {
    names.push_back(bodies_[i].first);
    if (first != names.back()) continue;
    arguments.erase(arguments.begin() + static_cast<std::ptrdiff_t>(at));
    const Cli cli(own_.commands[i], static_cast<int>(arguments.size()), arguments.data());
    return cli.done() ? 0 : bodies_[i].second(cli);
  }
  if (!otherwise_ && !first.empty() && first[0] != '-') {
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: unknown command (found '{}', expected one of: {})", own_.program, first,
                            join(names, ", ")),
                did_you_mean(first, names));
  }
  const Cli cli(own_, argc, argv);
  if (cli.done()) return 0;
  if (otherwise_) return otherwise_(cli);
  throw Error(ErrorKind::kUsage,
              fmt::format("{}: no command given (expected one of: {})", own_.program, join(names, ", ")),
              fmt::format("see {} --help", own_.program));
}

}  // namespace ctxc
