// A method on a tiny random Llama, as the property tests of methods make it.
#pragma once
#include "model/compressor.h"
#include "tiny_llama.h"

namespace ctxc::testing {

inline std::shared_ptr<Backbone> small_backbone() {
  static const auto shared = Backbone::random(tiny_llama(), 3);
  return shared;
}
/// The method of section `base` with keys of its own: ", key: value, …".
inline std::shared_ptr<Compressor> small_method(const std::string& base, const std::string& more) {
  Yaml section = Yaml::parse(base, "test");
  const Yaml own = Yaml::parse("{" + (more.empty() ? more : more.substr(2)) + "}", "test");
  for (const auto& [key, value] : own.entries()) section = section.with(key, value);
  return make_compressor(section, {.backbone = tiny_llama(), .head_ids = {1}, .seed = 5});
}
/// Every trained number moved a little, so that heads that start at zero do something.
inline void stir(Compressor& compressor, double scale = 0.05) {
  const at::NoGradGuard no_grad;
  uint64_t index = 0;
  for (auto& item : compressor.named_parameters())
    item.value().add_(random_tensor(item.value().sizes(), index++), scale);
}
/// The valid slots of a row.
inline Tensor slots_of(const Memory& memory, int64_t row = 0) {
  return memory.slots_BKD[row].index_select(0, memory.mask_BK[row].nonzero().flatten()).detach();
}
/// Largest difference; 1e9 for other shapes.
inline double worst(const Tensor& a, const Tensor& b) {
  if (a.sizes() != b.sizes()) return 1e9;
  return a.numel() == 0 ? 0 : (a - b).abs().max().item<double>();
}

}  // namespace ctxc::testing
