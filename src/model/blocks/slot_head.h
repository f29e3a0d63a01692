// From a method's features to vectors that the frozen decoder reads as embeddings:
//   C = (W rms(y) + b) e_rms, e_rms = rms of the frozen embedding table
// so that slots have the size of embeddings from the first step on. With a residual, features from one place
// on are a vector of the base's width that is in the slot as it is: C = (W rms(y) + b + y_residual) e_rms.
#pragma once
#include <optional>

#include "model/backbone.h"
#include "model/blocks/affine.h"
#include "model/compressor.h"

namespace ctxc {

/// Root mean square of all numbers of an embedding table.
double table_rms(const Tensor& table_VD);

/// e_rms, measured once for a frozen base.
class EmbeddingRms {
 public:
  double of(const Backbone& backbone) const;

 private:
  mutable const Backbone* measured_ = nullptr;
  mutable double value_ = 0;
};

class SlotHead : public Affine {
 public:
  using Affine::Affine;
  /// Features [..., F] to float32 [..., D].
  Tensor forward(const Tensor& features, const Backbone& backbone) const;
  /// Features from `first` on are the residual, and W starts at 0: a slot is at first nothing else.
  void start_at_residual(int64_t first);

 private:
  EmbeddingRms size_;
  std::optional<int64_t> residual_from_;
};

/// Normal weight with standard deviation 1 / sqrt(features), bias 0.
std::shared_ptr<SlotHead> make_slot_head(int64_t features, int64_t model_width, uint64_t seed,
                                         const std::string& name);

/// init: pca. The leading eigenvectors [n, D] of the second moment of the embedding table's normalised rows;
/// zero rows beyond D.
Tensor principal_directions(const Tensor& table_VD, int64_t count);
/// The weight starts as the directions [n, D] (features `first` .. first + n are coordinates along them), the
/// rest quiet: slots start near the embeddings whose coordinates the features are.
void start_along(SlotHead& head, const Tensor& directions_ND, int64_t first);

/// What the decoder reads: head (BOS; none without `sink`), then `slots` side by side along K, those of
/// `masks`, numbered without gaps. With `positions` (float, source tokens) a slot stands at its rounded
/// position behind the head and the text goes on behind the source (spread); none = gapless.
Memory lay_out_slots(const Context& context, const CompressorSetup& setup, bool sink,
                     const std::vector<Tensor>& slots, const std::vector<Tensor>& masks,
                     const std::vector<Tensor>& positions = {});

}  // namespace ctxc
