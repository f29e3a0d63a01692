// compile, the command of ctxc-run that trains, and measure, which asks what it made.
#pragma once
#include "core/cli.h"

namespace ctxc {

/// compile: one text becomes a memory artifact by Latent Context Compilation.
void add_run_compile(Subcommands& program);
/// measure: memories against the full context on questions with known answers.
void add_run_measure(Subcommands& program);

}  // namespace ctxc
