// Prepares the next batches on a thread of its own, in order, so that training never waits for data it could
// have had.
#pragma once
#include <functional>
#include <memory>

#include "data/batch.h"

namespace ctxc {

class Loader {
 public:
  /// `make(i)` gives the i-th micro-batch counted from `first`; it runs on the loader's thread, `depth`
  /// ahead. What it throws comes out of next().
  Loader(std::function<Batch(int64_t)> make, int64_t first, int64_t depth = 4);
  ~Loader();
  Batch next();
  double waited_seconds() const;  ///< time next() spent waiting so far

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace ctxc
