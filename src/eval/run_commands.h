// The commands of ctxc-run, one file each (run_NAME.cpp).
#pragma once
#include "core/cli.h"

namespace ctxc {

/// compress: a text becomes a memory artifact.
void add_run_compress(Subcommands& program);
/// compose: several memories become one.
void add_run_compose(Subcommands& program);
/// ask: questions to a memory on the frozen base.
void add_run_ask(Subcommands& program);

}  // namespace ctxc
