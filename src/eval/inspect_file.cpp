// ctxc-inspect FILE
#include <fmt/format.h>

#include "eval/file_summary.h"
#include "eval/inspect.h"

namespace ctxc {
namespace {

int inspect_file(const Cli& cli) {
  const OrderedJson summary = summarize_file(cli.positional().front());
  fmt::print("{}", cli.json() ? summary.dump() + "\n" : render_summary(summary, cli.has("tensors")));
  return 0;
}

}  // namespace

void add_inspect_file(Subcommands& program) {
  program.otherwise(
      {.summary =
           "Shows what a model, GGUF, safetensors file, checkpoint, run folder or memory artifact holds.",
       .usage = "ctxc-inspect FILE",
       .options = {{"tensors", "",
                    "every tensor on a line of its own (otherwise numbered layers are folded)"}},
       .min_positional = 1,
       .max_positional = 1},
      inspect_file);
}

}  // namespace ctxc
