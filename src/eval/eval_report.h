// `ctxc-eval report`: run folders as one self-contained page, and the tables as Markdown.
#pragma once
#include "core/cli.h"

namespace ctxc {

void add_eval_report(Subcommands& program);

}  // namespace ctxc
