// compile, the command of ctxc-run that trains.
#pragma once
#include "core/cli.h"

namespace ctxc {

/// compile: one text becomes a memory artifact by Latent Context Compilation.
void add_run_compile(Subcommands& program);

}  // namespace ctxc
