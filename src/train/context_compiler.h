// One text in, one memory artifact out: tokens, segments, the loop of train/document_compiler.h, the
// container, and the check that what was written is what was measured.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/lora_artifact.h"
#include "model/memory_artifact.h"
#include "train/compile_inputs.h"
#include "train/warm_start.h"

namespace ctxc {

/// What every compile of a run shares.
class ContextCompiler {
 public:
  /// Loads tokenizer and base, draws the queries. Error kUsage and kInput.
  explicit ContextCompiler(const RunConfig& config);

  const CompileInputs& inputs() const { return inputs_; }
  /// The compile of this text keeps the adapters and buffers of the chosen state for lora(). Error kUsage
  /// where it trains none, or several segments' ones.
  void keep_lora(const ContextText& context);
  /// The adapters that made the last artifact.
  LoraArtifact lora() const;
  /// Compiles one text into an artifact, in segments where it is long. Nothing if a signal asked to stop.
  /// Error kInput as CompileInputs::parts_of, before anything is computed.
  std::optional<MemoryArtifact> compile(const ContextText& context, const CompileWatcher& watcher);
  /// Writes the last artifact under another name, loads it again and measures it, and only then gives it its
  /// name: Error kInternal where what was written is not what was measured (1e-3).
  void save(const std::string& path, const MemoryArtifact& artifact);

 private:
  std::optional<MemoryArtifact> compile_segment(Document document, const CompileWatcher& watcher,
                                                Memory& memory);
  MemoryArtifact joined(const std::vector<MemoryArtifact>& segments, const std::string& id) const;
  /// Means over the segments of the last text.
  CompileNumbers measure(const MemoryArtifact& artifact) const;
  void check_written(const MemoryArtifact& back, const std::string& path) const;

  const RunConfig& config_;
  CompileInputs inputs_;
  std::shared_ptr<Backbone> backbone_;
  std::unique_ptr<WarmStart> warm_start_;  ///< compressor.warm_start
  bool keep_parameters_ = false;
  CompileState chosen_;                 ///< of the last segment compiled
  std::vector<HeldOutItems> held_out_;  ///< of the segments of the last text
};

}  // namespace ctxc
