#include "model/compressors/progressive_config.h"

#include <algorithm>

#include "core/error.h"
#include "model/blocks/layer_mix.h"
#include "model/blocks/text_slice.h"

namespace ctxc {
namespace {

/// A coarser pass reads this many times fewer latents than the next one.
constexpr int64_t kCoarser = 4;

void describe_reduction(ProgressiveConfig& c, Fields& f) {
  f("ratio", c.ratio, "context tokens per vector that the decoder reads").min(2).max(64);
  f("chunk", c.chunk, "tokens of a slice: read at a time, by the base too").min(2).unit("tokens");
  f("width", c.width, "width of the compressor").min(2);
  f("heads", c.heads, "attention heads").min(1);
  f("window", c.window,
    "local attention: tokens on either side at the first level, twice as many as rows halve")
      .min(1)
      .unit("tokens");
  f("layers", c.layers,
    "frozen hidden states read: four spread over the lower three quarters, all, the embedding, or those of "
    "layer_list")
      .one_of({"spread", "all", "embedding", "list"});
  f("layer_list", c.layer_list, "hidden states read with layers: list; 0 is the embedding").min(0);
  f("reduce", c.reduce,
    "which rows are merged: the most similar neighbours, fixed pairs (the control), or similar rows of the "
    "whole slice")
      .one_of({"cluster", "window", "global"});
  f("size_penalty", c.size_penalty,
    "cluster, global: taken off a pair's similarity per ln of its members' tokens, so that no cluster grows "
    "without end")
      .min(0);
  f("pool", c.pool, "how a pair becomes one row: the ordered merge, or a control")
      .one_of({"concat", "mean_linear", "mean"});
  f("pos", c.pos, "position code of the method's own attention").one_of({"rope", "alibi", "none"});
  f("init", c.init,
    "slots start at random, near a low-rank mean of their tokens' embeddings, near a low-rank copy of the "
    "first one, or as the first one, which stays in them as a residual")
      .one_of({"random", "pca", "pca_first", "residual"});
  f("passes", c.passes, "readings of the whole source, each four times finer than the one before")
      .min(1)
      .max(3);
}

void describe_memory(ProgressiveConfig& c, Fields& f) {
  f("buffer", c.buffer,
    "how the buffer is carried from slice to slice: a learned gate, a running mean, not at all")
      .one_of({"gated", "merge", "none"});
  f("state", c.state, "vectors of the buffer").min(1);
  f("keep", c.keep,
    "slices whose slots the decoder reads: all, the last so many, or 0 = the buffer alone (constant in the "
    "text's length)");
  f("slots", c.slots,
    "log: blocks of slots are merged like a binary counter, old text coarse, recent text fine")
      .one_of({"all", "log"});
  f("slot_positions", c.slot_positions,
    "decoder positions: gapless behind the head, or at the mean source position")
      .one_of({"contiguous", "spread"});
  f("sink", c.sink, "the decoder reads a head (BOS) before the slots");
}

void describe_training(ProgressiveConfig& c, Fields& f) {
  f("tbptt_chunks", c.tbptt_chunks,
    "slices of a block within which the gradient runs back through the buffer")
      .min(1);
  f("random_slices", c.random_slices,
    "training cuts a step's slices down to chunk / 1 .. chunk / this, so that the buffer learns no length; 1 "
    "= off")
      .min(1)
      .max(64);
  f("random_keep", c.random_keep, "training: share of steps in which the decoder reads the buffer alone")
      .min(0)
      .max(1);
  f("recon", c.recon, "build the up path and compute the term recon");
  f("nce", c.nce, "build the projections and compute the term nce");
  f("nce_queue", c.nce_queue, "term nce: latents of earlier steps among the negatives").min(0);
  f("nce_temperature", c.nce_temperature, "term nce: temperature at the start (its scale is trained)")
      .above(0);
}

}  // namespace

void ProgressiveConfig::describe(Fields& f) {
  describe_reduction(*this, f);
  describe_memory(*this, f);
  describe_training(*this, f);
}

std::optional<int64_t> ProgressiveConfig::kept_slices() const {
  return keep == "all" ? std::nullopt : std::optional<int64_t>(std::stoll(keep));
}

int64_t ProgressiveConfig::ratio_of_pass(int64_t pass) const {
  int64_t coarse = ratio;
  for (int64_t p = pass; p < passes; ++p) coarse *= kCoarser;
  return coarse;
}

ScaleOptions ProgressiveConfig::scale() const {
  return {.width = width,
          .heads = heads,
          .longest = chunk,
          .ratio = ratio_of_pass(1),
          .window = window,
          .reduce = reduce == "cluster"  ? Reduce::kCluster
                    : reduce == "window" ? Reduce::kWindow
                                         : Reduce::kGlobal,
          .pool = pool_named(pool),
          .code = position_code_named(pos),
          .size_penalty = size_penalty,
          .reads_buffer = has_buffer(),
          .start = path_start_named(init)};
}

void ProgressiveConfig::check(const LlamaConfig& backbone) const {
  CTXC_CHECK(reduce != "window" || (ratio & (ratio - 1)) == 0, ErrorKind::kUsage,
             "choose 2, 4, 8, 16, 32 or 64, or reduce: cluster",
             "compressor.ratio: reduce: window merges fixed pairs, so it must be a power of two (found {})",
             ratio);
  check_slices(chunk, ratio, width, heads, backbone);
  const bool digits = !keep.empty() && keep.size() < 10 &&
                      std::all_of(keep.begin(), keep.end(), [](char c) { return c >= '0' && c <= '9'; });
  CTXC_CHECK(keep == "all" || digits, ErrorKind::kUsage, "write 'keep: all', 'keep: 0' or 'keep: 4'",
             "compressor.keep: neither all nor a number of slices (found {})", keep);
  CTXC_CHECK(has_buffer() || kept_slices() != int64_t{0}, ErrorKind::kUsage,
             "set compressor.buffer: gated, or keep: all",
             "compressor.keep: 0 leaves nothing to read (found buffer: none)");
  CTXC_CHECK(slots == "all" || keep == "all", ErrorKind::kUsage, "set compressor.keep: all",
             "compressor.slots: log keeps every slice, the old ones coarser (found keep: {})", keep);
  CTXC_CHECK(slot_positions == "contiguous" || !has_buffer(), ErrorKind::kUsage,
             "set compressor.buffer: none, or slot_positions: contiguous",
             "compressor.slot_positions: spread has no place for the buffer's vectors (found buffer: {})",
             buffer);
  check_layers(layers, layer_list, backbone.num_layers);
}

}  // namespace ctxc
