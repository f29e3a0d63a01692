// ctxc-eval: measures trained methods, scores prediction files, writes reports.
#include "core/cli.h"
#include "eval/eval_score.h"

int main(int argc, char** argv) {
  return ctxc::run_main([&] {
    ctxc::Subcommands program("ctxc-eval",
                              "Measures how well questions are answered from compressed contexts.");
    ctxc::add_eval_score(program);
    return program.run(argc, argv);
  });
}
