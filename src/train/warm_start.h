// Where a per-document compile begins when an amortised compressor of the same base is at hand: at that
// compressor's slots for the context (ComprExIT, diffusion: they are input embeddings, as buffers are), or at
// its keys and values (500x), which `optimise: kv` trains on.
#pragma once
#include <memory>
#include <string>

#include "model/compressor.h"
#include "model/per_document.h"

namespace ctxc {

class WarmStart {
 public:
  /// `checkpoint`: run folder or checkpoint. Error kInput if it was trained on another base, with all
  /// differences.
  WarmStart(const std::string& checkpoint, const Backbone& backbone);
  /// Its memory of the document's context as the document's start_KD or start_kv; keys are turned from where
  /// they stand in that memory to the rows behind the document's prefix. Error kUsage where there are more
  /// than `most` slots, or none.
  void start(Document& document, int64_t most) const;

 private:
  std::string checkpoint_;
  const Backbone& backbone_;
  std::shared_ptr<Compressor> compressor_;
  int64_t padded_length_ = 0;
};

}  // namespace ctxc
