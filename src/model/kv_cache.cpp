#include "core/error.h"
#include "model/backbone.h"

namespace ctxc {

KvCache::KvCache(const LlamaConfig& config, int64_t batch, int64_t capacity, at::ScalarType dtype,
                 const at::Device& device) {
  const auto options = at::TensorOptions().dtype(dtype).device(device);
  const std::vector<int64_t> shape = {batch, config.num_kv_heads, capacity, config.head_dim};
  for (int64_t layer = 0; layer < config.num_layers; ++layer)
    storage_.push_back({at::empty(shape, options), at::empty(shape, options)});
}

KvPair KvCache::append(int64_t layer, const Tensor& key_BGTE, const Tensor& value_BGTE) {
  KvPair& kv = storage_.at(layer);
  const int64_t columns = key_BGTE.size(2);
  CTXC_CHECK(length_ + columns <= kv.key_BGKE.size(2), ErrorKind::kInternal, "",
             "KV cache: no room (found {} columns, asked for {})", kv.key_BGKE.size(2), length_ + columns);
  kv.key_BGKE.narrow(2, length_, columns).copy_(key_BGTE);
  kv.value_BGKE.narrow(2, length_, columns).copy_(value_BGTE);
  return {kv.key_BGKE.narrow(2, 0, length_ + columns), kv.value_BGKE.narrow(2, 0, length_ + columns)};
}

KvPair KvCache::view(int64_t layer) const {
  const KvPair& kv = storage_.at(layer);
  return {kv.key_BGKE.narrow(2, 0, length_), kv.value_BGKE.narrow(2, 0, length_)};
}

void KvCache::keep_rows(const Tensor& rows_B) {
  for (KvPair& kv : storage_) {
    kv.key_BGKE = kv.key_BGKE.index_select(0, rows_B);
    kv.value_BGKE = kv.value_BGKE.index_select(0, rows_B);
  }
}

}  // namespace ctxc
