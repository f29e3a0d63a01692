// One text in, one memory artifact out: tokens, segments, the loop of train/document_compiler.h, the
// container, and the check that what was written is what was measured.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/passage.h"
#include "model/lora_artifact.h"
#include "model/memory_artifact.h"
#include "train/document_compiler.h"
#include "train/run_config.h"
#include "train/warm_start.h"

namespace ctxc {

struct ContextText {
  std::string id;                        ///< unique, fit for a file name
  std::string text;                      ///< UTF-8
  std::vector<Question> questions = {};  ///< never seen by a compile: ctxc-run measure asks them
  std::string continuation = {};         ///< the text behind it, never seen either
};
/// Entries of data.contexts: a file is a context, a JSONL(.gz) file holds one a line (`text` or `context`,
/// and `id`, MRQA's `qas` and `continuation` if it likes); `-` is standard input. Error kInput (missing or
/// empty text) and kUsage (no entry).
std::vector<ContextText> read_contexts(const RunConfig& config);

/// What every compile of a run shares.
class ContextCompiler {
 public:
  /// Loads tokenizer and base, draws the queries. Error kUsage and kInput.
  explicit ContextCompiler(const RunConfig& config);

  /// Tokens of a text. Error kInput where it is empty or holds special tokens.
  Tokens tokens_of(const ContextText& context) const;
  /// Compiles keep the adapters and buffers of the chosen state for lora().
  void keep_parameters() { settings_.keep_parameters = true; }
  /// The adapters that made the last artifact. Error kUsage where there are none, or several segments' ones.
  LoraArtifact lora() const;
  /// Compiles one text into an artifact, in segments where it is long. Nothing if a signal asked to stop.
  std::optional<MemoryArtifact> compile(const ContextText& context, const CompileWatcher& watcher);
  /// Writes the artifact, loads it again and measures it: Error kInternal where what was written is not what
  /// was measured (1e-3).
  void save(const std::string& path, const MemoryArtifact& artifact);
  const Prompt& prompt() const { return *prompt_; }
  int64_t slots_for(int64_t tokens) const { return method_->slots_for(tokens); }

 private:
  std::optional<MemoryArtifact> compile_segment(const Document& document, const CompileWatcher& watcher,
                                                Memory& memory);
  std::optional<MemoryArtifact> compile_chained(const std::vector<Tokens>& parts,
                                                const CompileWatcher& watcher);

  const RunConfig& config_;
  CompileSettings settings_;
  Tokenizer tokenizer_;
  std::unique_ptr<Prompt> prompt_;
  std::shared_ptr<Backbone> backbone_;
  std::shared_ptr<PerDocument> method_;
  std::unique_ptr<WarmStart> warm_start_;  ///< compressor.warm_start
  QueryDraw queries_;
  CompileState chosen_;                         ///< of the last segment compiled
  int64_t segments_ = 0;                        ///< of the last text compiled
  std::unique_ptr<Document> document_;          ///< of the last segment compiled …
  std::unique_ptr<DocumentCompiler> compiler_;  ///< … and what can measure it again
};

/// Parts of at most `longest` tokens, as equal as can be.
std::vector<Tokens> cut_segments(const Tokens& tokens, int64_t longest);

}  // namespace ctxc
