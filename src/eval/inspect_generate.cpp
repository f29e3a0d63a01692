#include <algorithm>
#include <vector>

#include "core/error.h"
#include "core/log.h"
#include "core/yaml.h"
#include "data/synthetic.h"
#include "eval/inspect.h"

namespace ctxc {
namespace {

const std::vector<CliOption>& key_options() {
  static const std::vector<CliOption> options = {
      {"count", "N", "passages (10000)"},
      {"seed", "S", "other seeds give other passages (0)"},
      {"split", "train|valid", "the two never share a set of facts (train)"},
      {"people-min", "N", "fewest people in a passage (1)"},
      {"people-max", "N", "most people in a passage (3)"},
      {"facts-min", "N", "fewest facts about a person (2)"},
      {"facts-max", "N", "most facts about a person (3)"},
      {"filler", "N", "most sentences about nobody (0)"},
      {"wording", "easy|question|mixed", "how freely facts and questions are worded (easy)"}};
  return options;
}

/// The generator's keys as given on the command line, checked as those of a configuration are.
SyntheticConfig config_of(const Cli& cli) {
  Yaml given;
  for (const CliOption& option : key_options()) {
    if (!cli.has(option.name)) continue;
    std::string key = option.name;
    std::replace(key.begin(), key.end(), '-', '_');
    given = given.with(key, parse_override(key + "=" + cli.get(option.name)).second);
  }
  SyntheticConfig config;
  read_config(given, config, "synthetic");
  return config;
}

int generate(const Cli& cli) {
  const SyntheticConfig config = config_of(cli);
  const std::string out = cli.require("out");
  write_synthetic_mrqa(config, out);
  log_info(fmt::format("{}: {} passages", out, config.count));
  return 0;
}

}  // namespace

void add_inspect_generate(Subcommands& program) {
  std::vector<CliOption> options = {{"out", "FILE", "MRQA JSONL to write"}};
  options.insert(options.end(), key_options().begin(), key_options().end());
  program.add("generate-data",
              {.summary = "Writes generated question-answering passages (tiny facts) as MRQA JSONL.",
               .usage = "ctxc-inspect generate-data --out FILE [--count N] [--seed S] [--wording W] …",
               .options = options},
              generate);
}

}  // namespace ctxc
