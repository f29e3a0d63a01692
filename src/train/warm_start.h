// Where a per-document compile begins when an amortised compressor of the same base is at hand: at that
// compressor's slots for the context (ComprExIT, diffusion: they are input embeddings, as buffers are).
#pragma once
#include <memory>
#include <string>

#include "model/compressor.h"

namespace ctxc {

class WarmStart {
 public:
  /// `checkpoint`: run folder or checkpoint. Error kInput if it was trained on another base, with all
  /// differences.
  WarmStart(const std::string& checkpoint, const Backbone& backbone);
  /// Its slots for these tokens, [K, D] float32. Error kUsage where there are more than `most`, or none.
  Tensor slots(const Tokens& context, int64_t most) const;

 private:
  std::string checkpoint_;
  const Backbone& backbone_;
  std::shared_ptr<Compressor> compressor_;
  int64_t padded_length_ = 0;
};

}  // namespace ctxc
