#include "eval/eval_report.h"

#include <fmt/format.h>

#include <filesystem>
#include <iostream>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "eval/report.h"

namespace ctxc {
namespace {

const CliSpec kSpec = {
    .summary = "Writes run folders as one self-contained page, and prints their tables as Markdown.",
    .usage = "ctxc-eval report DIR... [--out report.html]",
    .options = {{"out", "FILE", "page to write (default report.html in the first folder)"}},
    .min_positional = 1,
    .max_positional = 100};

int run_report(const Cli& cli) {
  const Report report = make_report(cli.positional());
  const std::string out =
      cli.get("out", (std::filesystem::path(cli.positional().front()) / "report.html").string());
  const std::filesystem::path parent = std::filesystem::path(out).parent_path();
  if (!parent.empty()) make_directories(parent.string());
  write_file_atomic(out, report.html);
  if (cli.json())
    std::cout << OrderedJson{{"out", out}, {"bytes", report.html.size()}}.dump() << "\n";
  else
    std::cout << report.markdown;
  log_info(fmt::format("{}: report of {} folder{}", out, cli.positional().size(),
                       cli.positional().size() == 1 ? "" : "s"));
  return 0;
}

}  // namespace

void add_eval_report(Subcommands& program) {
  program.add("report", kSpec, run_report);
}

}  // namespace ctxc
