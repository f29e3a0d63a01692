// ctxc-train with data.contexts: texts compiled one after another into a run folder that goes on with the
// next context after an interruption and loses none that was finished.
#pragma once
#include "train/run_config.h"
#include "train/run_folder.h"

namespace ctxc {

struct CompileRunResult {
  int64_t compiled = 0, kept = 0, contexts = 0, failed = 0;
  int signal = 0;
};
/// <run>/memories/<id>.safetensors, and a line of <run>/contexts.jsonl each.
CompileRunResult compile_contexts(const RunConfig& config, FolderUse use);

/// Contexts with their tokens and slots, without weights: what a run would do.
std::string compile_plan(const RunConfig& config);

/// True where `compressor` compiles one context at a time.
bool is_per_document(const RunConfig& config);

}  // namespace ctxc
