// Quantised KV of the full context, a reference at equal bytes: nothing is left out, every number is stored
// in `bits` bits (blocks/bit_rows), as in KIVI (arXiv 2402.02750):
//   keys    [G, N, E]  per channel: groups of `group` tokens
//   values  [G, N, E]  per token: groups of `group` channels
// Unlike KIVI no recent tokens stay exact, so that the bytes are those of `bits` alone; the head does (every
// method has it). What the decoder reads has gone through the packed bytes. Logged: stored_bytes a context
// token, scales and zeros included, and the relative errors of keys and values.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "model/blocks/bit_rows.h"
#include "model/budget.h"
#include "model/compressor.h"
#include "model/memory_artifact.h"

namespace ctxc {
namespace {

struct QuantizedKvConfig {
  int64_t bits = 4, group = 32;
  void describe(Fields& f) {
    f("bits", bits, "of a number: 1, 2, 4 or 8").min(1).max(8);
    f("group", group, "numbers that share a scale and a zero: tokens of a key's channel, channels of a value")
        .min(1);
  }
};

/// What was stored, over a batch.
struct Stored {
  double bytes = 0, error_k = 0, error_v = 0, norm_k = 0, norm_v = 0;
};

class QuantizedKv : public Compressor {
 public:
  using Config = QuantizedKvConfig;
  QuantizedKv(Config config, CompressorSetup setup) : config_(config), setup_(std::move(setup)) {
    CTXC_CHECK(config_.bits == 1 || config_.bits == 2 || config_.bits == 4 || config_.bits == 8,
               ErrorKind::kUsage, "choose 1, 2, 4 or 8", "compressor.bits: found {}", config_.bits);
  }

  Needs needs() const override { return {.hidden = {}, .layers = 0, .lora = false, .kv = true}; }
  int64_t slots_for(int64_t tokens) const override { return head() + tokens; }
  std::string config_yaml() const override { return dump_config(config_); }

  Compressed compress(Context& context, const StepKey&, const State&) override {
    const at::NoGradGuard no_grad;
    const Backbone& backbone = context.backbone();
    const Tensor ids_P = context.ids_P().to(at::kCPU).contiguous();
    Stored stored;
    std::vector<std::vector<KvPair>> rows;
    int64_t widest = 0;
    for (int64_t row = 0; row < context.batch(); ++row) {
      const auto at = static_cast<size_t>(row);
      check_window(context.lengths()[at], head(), backbone.config());
      rows.push_back(read(backbone, ids_P.narrow(0, context.offsets()[at], context.lengths()[at]), stored));
      widest = std::max(widest, slots_for(context.lengths()[at]));
    }
    Memory memory;
    const auto host = at::TensorOptions().dtype(at::kLong);
    memory.mask_BK = at::zeros({context.batch(), widest}, host.dtype(at::kBool));
    for (int64_t row = 0; row < context.batch(); ++row)
      memory.mask_BK[row].slice(0, 0, slots_for(context.lengths()[static_cast<size_t>(row)])) = true;
    memory.mask_BK = memory.mask_BK.to(backbone.device());
    for (size_t layer = 0; layer < rows.at(0).size(); ++layer) {
      std::vector<Tensor> keys, values;
      for (const auto& row : rows) {
        const int64_t missing = widest - row[layer].key_BGKE.size(2);
        keys.push_back(at::constant_pad_nd(row[layer].key_BGKE, {0, 0, 0, missing}));
        values.push_back(at::constant_pad_nd(row[layer].value_BGKE, {0, 0, 0, missing}));
      }
      memory.kv.push_back({at::cat(keys), at::cat(values)});
    }
    memory.head_ids_BP = at::empty({context.batch(), 0}, host.device(backbone.device()));
    number_densely(memory, 0);
    const double tokens = static_cast<double>(std::max<int64_t>(1, context.tokens()));
    return {std::move(memory),
            {{"stored_bytes_per_token", at::scalar_tensor(stored.bytes / tokens)},
             {"key_error", at::scalar_tensor(std::sqrt(stored.error_k / std::max(stored.norm_k, 1e-30)))},
             {"value_error", at::scalar_tensor(std::sqrt(stored.error_v / std::max(stored.norm_v, 1e-30)))}},
            {}};
  }

 private:
  int64_t head() const { return static_cast<int64_t>(setup_.head_ids.size()); }

  /// Keys and values of head and context, [1, G, head + N, E] a layer; those of the context through their
  /// bytes.
  std::vector<KvPair> read(const Backbone& backbone, const Tensor& ids_N, Stored& stored) const {
    Tokens tokens(setup_.head_ids.begin(), setup_.head_ids.end());
    const int64_t* ids = ids_N.const_data_ptr<int64_t>();
    tokens.insert(tokens.end(), ids, ids + ids_N.size(0));
    std::vector<KvPair> kv = read_kv(backbone, tokens);
    if (ids_N.size(0) == 0) return kv;
    for (KvPair& pair : kv) {
      pair.key_BGKE = through(pair.key_BGKE, 2, stored.bytes, stored.error_k, stored.norm_k);
      pair.value_BGKE = through(pair.value_BGKE, 3, stored.bytes, stored.error_v, stored.norm_v);
    }
    return kv;
  }

  Tensor through(const Tensor& exact, int64_t dimension, double& bytes, double& error, double& norm) const {
    const Tensor kept = exact.narrow(2, 0, head()), rest = exact.narrow(2, head(), exact.size(2) - head());
    const BitRows rows = pack_bits(rest, dimension, config_.bits, config_.group);
    const Tensor read = rows.unpacked();
    bytes += static_cast<double>(rows.bytes());
    error += (read - rest.to(at::kFloat)).square().sum().item<double>();
    norm += rest.to(at::kFloat).square().sum().item<double>();
    return at::cat({kept, read.to(exact.scalar_type())}, 2);
  }

  Config config_;
  CompressorSetup setup_;
};

CTXC_REGISTER_COMPRESSOR("quantized_kv", QuantizedKv,
                         "keys and values of the whole context in few bits: the reference at equal bytes");

}  // namespace
}  // namespace ctxc
