#include "model/blocks/row_noise.h"

#include <string_view>

namespace ctxc {

RowNoise::RowNoise(const Context& context, const StepKey& key)
    : key_(key), device_(context.ids_P().device()) {
  const Tensor ids_P = context.ids_P().to(at::kCPU, at::kLong).contiguous();
  const auto* bytes = reinterpret_cast<const char*>(ids_P.const_data_ptr<int64_t>());
  for (int64_t row = 0; row < context.batch(); ++row) {
    std::string text(bytes + 8 * context.offsets()[row], 8 * static_cast<size_t>(context.lengths()[row]));
    text.append(reinterpret_cast<const char*>(&key_.micro), sizeof key_.micro);
    rows_.push_back(hash64(text));
  }
}

Tensor RowNoise::normal(const std::string& stream, int64_t count, int64_t width) const {
  Tensor result = at::empty({static_cast<int64_t>(rows_.size()), count, width}, at::kFloat);
  float* values = result.mutable_data_ptr<float>();
  for (const uint64_t row : rows_) {
    CounterRng rng(key_.seed, stream, static_cast<uint64_t>(key_.step), row);
    for (int64_t i = 0; i < count * width; ++i) *values++ = static_cast<float>(rng.normal());
  }
  return result.to(device_);
}

Tensor RowNoise::common_normal(const std::string& stream, int64_t count, int64_t width) const {
  Tensor result = at::empty({count, width}, at::kFloat);
  CounterRng rng(key_.seed, stream, static_cast<uint64_t>(key_.step), static_cast<uint64_t>(key_.micro));
  float* values = result.mutable_data_ptr<float>();
  for (int64_t i = 0; i < count * width; ++i) values[i] = static_cast<float>(rng.normal());
  return result.to(device_).unsqueeze(0).expand({static_cast<int64_t>(rows_.size()), count, width});
}

Tensor RowNoise::uniform(const std::string& stream, int64_t count) const {
  Tensor result = at::empty({static_cast<int64_t>(rows_.size()), count}, at::kFloat);
  float* values = result.mutable_data_ptr<float>();
  for (const uint64_t row : rows_) {
    CounterRng rng(key_.seed, stream, static_cast<uint64_t>(key_.step), row);
    for (int64_t i = 0; i < count; ++i) *values++ = static_cast<float>(rng.next_u32() >> 8) * 0x1p-24F;
  }
  return result.to(device_);
}

}  // namespace ctxc
