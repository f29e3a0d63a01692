// ctxc-train with data.contexts: texts compiled one after another into a run folder that goes on with the
// next context after an interruption and loses none that was finished.
#pragma once
#include <string>

#include "core/json.h"
#include "train/run_config.h"
#include "train/run_folder.h"

namespace ctxc {

struct CompileRunResult {
  int64_t compiled = 0, kept = 0, contexts = 0;
  int64_t failed = 0;  ///< memories, compiled or kept, that fail a gate
  int signal = 0;
};
/// <run>/memories/<id>.safetensors, and a line of <run>/contexts.jsonl each. Every context is checked before
/// the first is compiled. kResume keeps the memories of the same text and configuration; keys that do not
/// change a memory (folders, threads, logging) may differ.
CompileRunResult compile_contexts(const RunConfig& config, FolderUse use);

/// Contexts with their tokens, segments and slots, without weights: what a run would do, or the error it
/// would end with.
struct CompilePlan {
  std::string text;  ///< for people, with the configuration
  OrderedJson json;
};
CompilePlan compile_plan(const RunConfig& config);

/// True where `compressor` compiles one context at a time.
bool is_per_document(const RunConfig& config);

}  // namespace ctxc
