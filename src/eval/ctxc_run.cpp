// ctxc-run: compressed contexts in use. compress: text -> memory artifact; ask: a memory and questions ->
// answers; compile: text -> memory artifact by training; compose: memories -> one memory; measure: memories
// and questions with answers -> numbers.
#include <fmt/format.h>

#include "core/cli.h"
#include "eval/run_commands.h"
#include "train/run_compile.h"

int main(int argc, char** argv) {
  return ctxc::run_main([&] {
    ctxc::Subcommands program("ctxc-run", "Compresses texts into memories, and asks them questions.");
    ctxc::add_run_compress(program);
    ctxc::add_run_ask(program);
    ctxc::add_run_compile(program);
    ctxc::add_run_compose(program);
    ctxc::add_run_measure(program);
    return program.run(argc, argv);
  });
}
