// The class of the method `progressive`; equations in progressive.cpp.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "model/blocks/contrast.h"
#include "model/blocks/down_path.h"
#include "model/blocks/layer_mix.h"
#include "model/blocks/slice_memory.h"
#include "model/blocks/slot_head.h"
#include "model/blocks/text_slice.h"
#include "model/compressors/progressive_config.h"

namespace ctxc {

class Progressive : public Compressor {
 public:
  using Config = ProgressiveConfig;
  Progressive(Config config, CompressorSetup setup);

  Needs needs() const override;
  int64_t ratio() const override { return config_.ratio; }
  int64_t slots_for(int64_t tokens) const override;
  int64_t stream_tokens() const override { return config_.passes == 1 ? config_.chunk : 0; }
  std::string config_yaml() const override { return dump_config(config_); }
  std::map<std::string, std::string> idle_parameters() const override;
  std::vector<std::string> undecayed_parameters() const override;
  Compressed compress(Context& context, const StepKey& key, const State& in = {}) override;

 private:
  /// A slice and what it became in the last pass.
  struct Piece {
    TextSlice slice;
    ScaleDown::Result down;
  };
  /// How a step is cut: drawn anew in training.
  struct Cut {
    int64_t slice_tokens = 0;
    MemoryRule rule;
  };

  MemoryRule rule() const;
  Cut cut_of(const StepKey& key) const;
  std::vector<Piece> read(const Context& context, const Tensor& mixed_PD, const Cut& cut,
                          SliceMemory& memory) const;
  /// The latents of a slice; init: residual: beside each the first embedding of its cluster.
  Tensor with_residual(const Context& context, const Piece& piece) const;
  void add_recon(Terms& terms, const std::vector<Piece>& pieces) const;
  void add_contrast(Terms& terms, const std::vector<Piece>& pieces, const Tensor& middle_PD,
                    int64_t slice_tokens);

  Config config_;
  CompressorSetup setup_;
  std::vector<int64_t> layers_;  ///< hidden states that x is mixed from
  std::shared_ptr<LayerMix> mix_;
  std::shared_ptr<ScaleDown> down_;
  std::shared_ptr<GatedState> buffer_;
  std::shared_ptr<SlotHead> out_, buffer_out_;
  std::shared_ptr<PairPool> merge_;  ///< of slots that must give room, and of slots: log
  std::shared_ptr<ScaleUp> up_;
  std::shared_ptr<Projector> project_latent_, project_text_;
  Tensor log_scale_;
  std::shared_ptr<ContrastQueue> queue_;
  bool told_ = false;
};

}  // namespace ctxc
