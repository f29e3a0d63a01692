// Random numbers of the rows of a batch, each a pure function of (seed, stream, step, micro-batch, the row's
// tokens, index): neither padding, nor the order or the company of rows, nor a resumed run changes them.
#pragma once
#include <string>

#include "model/compressor.h"

namespace ctxc {

class RowNoise {
 public:
  /// `key`: seed, step and micro-batch of the draws.
  RowNoise(const Context& context, const StepKey& key);
  /// Normal numbers float32 [B, count, width].
  Tensor normal(const std::string& stream, int64_t count, int64_t width) const;
  /// The same normal numbers for every row, whatever its tokens: [B, count, width].
  Tensor common_normal(const std::string& stream, int64_t count, int64_t width) const;
  /// Uniform in [0, 1), float32 [B, count].
  Tensor uniform(const std::string& stream, int64_t count) const;

 private:
  StepKey key_;
  std::vector<uint64_t> rows_;
  at::Device device_;
};

}  // namespace ctxc
