// ctxc-run compose A B ... --out MEMORY
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iostream>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "eval/run_commands.h"
#include "model/memory_edit.h"

namespace ctxc {
namespace {

const CliSpec kSpec = {
    .summary =
        "Joins memories of one base and header into one: every slot's keys are turned to their new place.",
    .usage = "ctxc-run compose A B … --out MEMORY",
    .options = {{"out", "MEMORY", "memory artifact to write"},
                {"overwrite", "", "replace an existing --out"}},
    .min_positional = 2,
    .max_positional = 4096};

int run_compose(const Cli& cli) {
  const std::string out = cli.require("out");
  CTXC_CHECK(!std::filesystem::exists(out) || cli.has("overwrite"), ErrorKind::kBusy,
             "choose another --out, or add --overwrite", "{}: is there already", out);
  std::vector<MemoryArtifact> memories;
  for (const std::string& path : cli.positional()) memories.push_back(load_memory(path));
  MemoryArtifact joined = compose(memories, cli.positional());
  // Turned keys and other neighbours ask for other scales: keys are rounded anew, values keep theirs.
  const auto is_int8 = [](const MemoryArtifact& memory) { return memory.int8.has_value(); };
  if (std::all_of(memories.begin(), memories.end(), is_int8)) joined = stored_as(joined, "int8");
  const std::filesystem::path parent = std::filesystem::path(out).parent_path();
  if (!parent.empty()) make_directories(parent.string());
  save_memory(out, joined);
  const int64_t slots = joined.rows() - joined.header();
  const uint64_t bytes = std::filesystem::file_size(out);
  if (cli.json())
    std::cout << OrderedJson{{"out", out},     {"memories", memories.size()}, {"header", joined.header()},
                             {"slots", slots}, {"kind", joined.kind},         {"bytes", bytes}}
                     .dump()
              << "\n";
  else
    log_info(fmt::format("{}: {} memories, {} header rows and {} slots, {}", out, memories.size(),
                         joined.header(), slots, human_bytes(bytes)));
  return 0;
}

}  // namespace

void add_run_compose(Subcommands& program) {
  program.add("compose", kSpec, run_compose);
}

}  // namespace ctxc
