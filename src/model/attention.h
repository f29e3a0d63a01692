// Scaled dot-product attention of grouped queries (H query heads share G key/value heads) in the two layouts
// of the backbone. Masks are turned into additive biases once and serve all layers.
#pragma once
#include <memory>
#include <vector>

#include "model/backbone.h"

namespace ctxc {

/// Attention of one forward pass.
class Attention {
 public:
  virtual ~Attention() = default;
  /// Queries [P, H, E] and keys [P, G, E] after RoPE, values [P, G, E] -> [P, H * E].
  virtual Tensor operator()(int64_t layer, const Tensor& query_PHE, const Tensor& key_PGE,
                            const Tensor& value_PGE) = 0;
};

/// Every segment of a packed batch attends to itself (and its prefix) only.
class PackedAttention : public Attention {
 public:
  /// `dtype`: what queries, keys and values are multiplied in; the result has the type of the queries.
  PackedAttention(const LlamaConfig& config, const PackedRows& rows, at::ScalarType dtype);
  Tensor operator()(int64_t layer, const Tensor& query_PHE, const Tensor& key_PGE,
                    const Tensor& value_PGE) override;

 private:
  struct Part {
    Tensor bias_TS;  ///< additive; undefined = causal
    int64_t prefix_row = -1;
  };
  const LlamaConfig& config_;
  at::ScalarType dtype_;
  const std::vector<KvPair>& prefix_;
  std::vector<int64_t> lengths_;
  std::vector<Part> parts_;
};

/// Rows of a padded batch, [B * T, …] with B outermost, over the columns of a cache (if any) and their own.
class PaddedAttention : public Attention {
 public:
  /// `mask_BS` bool over cached and new columns, or undefined (all real). A padding query attends to itself,
  /// so that no row of the softmax is empty.
  PaddedAttention(const LlamaConfig& config, int64_t batch, int64_t columns, const Tensor& mask_BS,
                  KvCache* cache, at::ScalarType dtype, const at::Device& device);
  Tensor operator()(int64_t layer, const Tensor& query_PHE, const Tensor& key_PGE,
                    const Tensor& value_PGE) override;

 private:
  const LlamaConfig& config_;
  int64_t batch_, columns_;
  KvCache* cache_;
  Tensor bias_B1TS_;
  bool causal_ = false;
};

}  // namespace ctxc
