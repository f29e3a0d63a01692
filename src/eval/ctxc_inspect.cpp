// ctxc-inspect: looks into files and methods. Only dispatches; every command is in a file of its own.
#include "core/cli.h"
#include "eval/inspect.h"

int main(int argc, char** argv) {
  return ctxc::run_main([&] {
    ctxc::Subcommands program("ctxc-inspect", "Looks inside models, checkpoints, memories and methods.");
    ctxc::add_inspect_file(program);
    ctxc::add_inspect_generate(program);
    ctxc::add_inspect_plan(program);
    ctxc::add_inspect_tokenize(program);
    ctxc::add_inspect_trace(program);
    return program.run(argc, argv);
  });
}
