// The Llama that reads: frozen by default, trainable when a run trains the base itself.
// Two forward paths with the same numbers:
//   packed  rows one after another, no padding; attention per segment. What training and encoding use.
//   padded  [B, T] with a mask and an optional KV cache. What generation and `ctxc-inspect trace` use, and
//   the oracle.
// Hidden state 0 is the embedding, 1..L-1 are outputs of layers, L is the output of the last layer AFTER the
// final norm (comprexit.md section 1). Keys are cached after RoPE (rotate-half channel order).
#pragma once
#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/config.h"
#include "model/layers.h"
#include "model/llama_config.h"
#include "model/lora.h"
#include "model/memory.h"
#include "model/shapes.h"

namespace ctxc {

class Attention;

/// One row of a packed batch.
struct Segment {
  int64_t length = 0;
  Tensor mask_TS = {};  ///< bool [T, prefix + T], true = attends; undefined = causal (prefix fully visible)
  int64_t prefix_row = -1;  ///< row of PackedRows::prefix this segment reads first; -1 = none
};

struct PackedRows {
  Tensor embeds_PD;
  Tensor positions_P = {};             ///< int64
  std::vector<Segment> segments = {};  ///< lengths sum to P
  std::vector<KvPair> prefix = {};     ///< per layer [B, G, K, E], or empty
  Tensor prefix_mask_BK = {};          ///< bool; undefined = all real
};

struct ForwardOptions {
  std::vector<int64_t> collect = {};  ///< hidden states to return, in this order; empty = {L}
  int64_t layers = 0;                 ///< run only the first layers, then the final norm; 0 = all
  bool keep_kv = false;               ///< also return keys and values of every layer
  const Adapters* adapters = nullptr;
  bool final_norm = true;  ///< false: hidden state L comes as the last layer leaves it
};

struct ForwardResult {
  std::vector<Tensor> hidden;  ///< packed [P, D] or padded [B, T, D], in the order of `collect`
  std::vector<KvPair> kv;      ///< with keep_kv: packed [1, G, P, E] or padded [B, G, T, E]
};

/// Keys and values of what was read so far, padded path; grows in place.
class KvCache {
 public:
  /// Room for `capacity` columns; starts with `prefix` (may be empty) whose columns are real where `mask_BK`
  /// says so.
  KvCache(const LlamaConfig& config, int64_t batch, int64_t capacity, at::ScalarType dtype,
          const at::Device& device);
  /// Writes new columns behind length() and returns everything up to them. Error kInternal if there is no
  /// room.
  KvPair append(int64_t layer, const Tensor& key_BGTE, const Tensor& value_BGTE);
  KvPair view(int64_t layer) const;  ///< [B, G, length, E]
  int64_t length() const { return length_; }
  void advance(int64_t columns) { length_ += columns; }  ///< after every layer appended
  void keep_rows(const Tensor& rows_B);                  ///< drop finished rows

 private:
  std::vector<KvPair> storage_;
  int64_t length_ = 0;
};

struct BackboneOptions {
  /// auto | float32 | bfloat16: of the stored weights; auto = as in the file. On a CPU that can, `bfloat16`
  /// also multiplies in bfloat16 (frozen weights only); everything between the products stays float32.
  std::string dtype = "auto";
  at::Device device = at::kCPU;
  bool trainable = false;   ///< float32 parameters with gradients
  std::string prefix = {};  ///< see load_llama_weights
  bool allow_extra_rows = false;
};

class Backbone {
 public:
  static std::shared_ptr<Backbone> load(const std::string& path, const BackboneOptions& options = {});
  /// Fresh weights: normal(0, initializer_range), norms 1; drawn from (seed, stream "backbone").
  static std::shared_ptr<Backbone> random(const LlamaConfig& config, uint64_t seed,
                                          const BackboneOptions& options = {});

  /// Over weights that are already there (a checkpoint's), under their Hugging Face names.
  static std::shared_ptr<Backbone> from_weights(LlamaConfig config, std::map<std::string, Tensor> weights,
                                                const BackboneOptions& options, std::string path);

  const LlamaConfig& config() const { return config_; }
  const std::string& path() const { return path_; }  ///< "" for random ones
  at::Device device() const;
  at::ScalarType compute_dtype() const;  ///< of activations
  /// What frozen weights, and queries with keys in the packed path, are multiplied in: bfloat16 under
  /// Products::kNarrow.
  at::ScalarType product_dtype() const;
  bool trainable() const;
  /// Every weight under its Hugging Face name, in name order.
  const std::map<std::string, Tensor>& weights() const { return weights_; }

  Tensor embed(const Tensor& ids) const;  ///< [...] int64 -> [..., D]
  /// The output matrix [V, D] in product dtype (the embedding if tied).
  Tensor head_VD() const;
  Tensor logits(const Tensor& hidden) const;  ///< [..., D] -> [..., V]; hidden state L

  ForwardResult forward(const PackedRows& rows, const ForwardOptions& options = {}) const;
  /// `mask_BT`: bool over the cache's columns and the T new ones (undefined = all real); rows whose query is
  /// padding give zeros. `positions_BT` int64.
  ForwardResult forward_padded(const Tensor& embeds_BTD, const Tensor& mask_BS, const Tensor& positions_BT,
                               const ForwardOptions& options = {}, KvCache* cache = nullptr) const;

  /// RoPE inverse frequencies [E/2], float32, after llama3 scaling.
  const Tensor& inverse_frequencies() const { return inverse_frequencies_; }

  /// Stored weights of one layer (they share storage with weights()).
  struct Layer {
    Tensor input_norm_D, post_norm_D;
    std::array<Tensor, kProjections> projection;  ///< indexed by Projection
  };

 private:
  Backbone(LlamaConfig config, std::map<std::string, Tensor> weights, const BackboneOptions& options,
           std::string path);
  /// Both paths: x [P, D], where the rows of `batch` equal blocks are laid one after another (packed: batch =
  /// 1). `narrow`: by fused layers (narrow_layer.h) where nothing between the products is asked for.
  ForwardResult run(Tensor x_PD, const Tensor& positions_P, int64_t batch, Attention& attention,
                    const ForwardOptions& options, bool narrow = false) const;
  Tensor run_narrow_layer(int64_t index, const Tensor& x_PD, const RopeTable& rope,
                          Attention& attention) const;
  /// `narrow`: by the functions of narrow_layer.h, in bfloat16 between the products.
  Tensor run_layer(int64_t index, const Tensor& x_PD, const RopeTable& rope, Attention& attention,
                   const Adapters* adapters, bool narrow, KvPair* kept) const;

  LlamaConfig config_;
  std::string path_;
  std::map<std::string, Tensor> weights_;
  std::vector<Layer> layers_;
  Tensor embedding_VD_, head_VD_, norm_D_, inverse_frequencies_;
  Products products_ = Products::kWide;
  bool trainable_ = false;
};

}  // namespace ctxc
