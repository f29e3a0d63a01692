// Frozen hidden states of contexts, kept on disk: a run that reads its data more than once, or a curriculum
// of runs on one base, then reads the base once. States are stored as bfloat16, and rounded the same way when
// they are computed, so that a run gives the same bits whether they were there or not. One file
//   <folder>/hidden-<16 digits: base, layers, truncation, piece>.bin
// of records: SHA-256 of the tokens, their number, then [states, tokens, D]. A record that a kill left
// unfinished is cut off when the file is opened again.
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/file.h"
#include "model/backbone.h"

namespace ctxc {

/// Which states: those of `layers` layers run (0 = all), over pieces of `piece` tokens (0 = whole rows).
struct HiddenRequest {
  std::vector<int64_t> indices;
  int64_t layers = 0, piece = 0;
  bool operator<(const HiddenRequest& other) const {
    return std::tie(indices, layers, piece) < std::tie(other.indices, other.layers, other.piece);
  }
};

class HiddenCache {
 public:
  /// Holds a lock on the folder; Error kBusy if another run has it. No more than `max_bytes` are stored; what
  /// does not fit is computed anew every time. Error kUsage for a base that trains.
  HiddenCache(std::string folder, const Backbone& backbone, uint64_t max_bytes);
  ~HiddenCache();

  /// States [T, D] bfloat16 on the CPU of these tokens, one a layer asked for; empty if they are not there.
  std::vector<Tensor> find(const HiddenRequest& request, const std::string& tokens_sha256);
  /// Error kDisk.
  void store(const HiddenRequest& request, const std::string& tokens_sha256,
             const std::vector<Tensor>& states_TD);

  int64_t hits() const { return hits_; }
  int64_t misses() const { return misses_; }

 private:
  struct File;
  File& open(const HiddenRequest& request);

  std::string folder_, base_;
  uint64_t max_bytes_;
  int64_t width_, hits_ = 0, misses_ = 0;
  DirectoryLock lock_;
  std::map<HiddenRequest, std::unique_ptr<File>> files_;
};

}  // namespace ctxc
