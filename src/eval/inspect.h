// The commands of ctxc-inspect, one file each (inspect_NAME.cpp).
#pragma once
#include "core/cli.h"

namespace ctxc {

/// Without a command: what a file or folder holds.
void add_inspect_file(Subcommands& program);
/// generate-data: a generated question-answering set as MRQA JSONL.
void add_inspect_generate(Subcommands& program);

/// tokenize: the token ids of the texts in a JSON list.
void add_inspect_tokenize(Subcommands& program);
/// trace: the intermediate tensors of one batch.
void add_inspect_trace(Subcommands& program);
/// plan: a picture of the transmission plan of a text.
void add_inspect_plan(Subcommands& program);

}  // namespace ctxc
