// The keys of the method `progressive` (progressive.md section 5) and the checks between them.
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "core/config.h"
#include "model/blocks/scale_path.h"
#include "model/compressor.h"

namespace ctxc {

struct ProgressiveConfig {
  int64_t ratio = 4, chunk = 512;
  int64_t width = 256, heads = 4, window = 64;
  std::string layers = "spread";
  std::vector<int64_t> layer_list;
  // reduction
  std::string reduce = "cluster", pool = "concat", pos = "rope", init = "random";
  double size_penalty = 0.05;
  int64_t passes = 1;
  // buffer and slots
  std::string buffer = "gated", keep = "all", slots = "all", slot_positions = "contiguous";
  int64_t state = 32;
  bool sink = true;
  // training
  int64_t tbptt_chunks = 2, random_slices = 8, nce_queue = 256;
  double random_keep = 0.25, nce_temperature = 0.07;
  bool recon = true, nce = true;

  void describe(Fields& f);
  /// Error kUsage naming the key.
  void check(const LlamaConfig& backbone) const;

  bool has_buffer() const { return buffer != "none"; }
  /// Slices whose slots are kept; none = all.
  std::optional<int64_t> kept_slices() const;
  /// Context tokens per latent in a pass (1 .. passes): r 4^(passes - pass).
  int64_t ratio_of_pass(int64_t pass) const;
  ScaleOptions scale() const;
};

}  // namespace ctxc
