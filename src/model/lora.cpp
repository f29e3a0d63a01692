#include "model/lora.h"

#include "core/error.h"

namespace ctxc {

std::string_view name_of(Projection projection) {
  constexpr std::array<std::string_view, kProjections> kNames = {"q_proj",    "k_proj",  "v_proj",   "o_proj",
                                                                 "gate_proj", "up_proj", "down_proj"};
  return kNames[static_cast<size_t>(projection)];
}

void Adapters::set(int64_t layer, Projection projection, LoraPair pair) {
  CTXC_CHECK(layer >= 0 && layer < static_cast<int64_t>(pairs_.size()), ErrorKind::kInternal, "",
             "adapter of layer {} (expected below {})", layer, pairs_.size());
  CTXC_CHECK(pair.a_RD.dim() == 2 && pair.b_DR.dim() == 2 && pair.a_RD.size(0) == pair.b_DR.size(1),
             ErrorKind::kInternal, "", "adapter of layer {} {}: A and B do not share a rank", layer,
             name_of(projection));
  pairs_[static_cast<size_t>(layer)][static_cast<size_t>(projection)] = std::move(pair);
}

const LoraPair* Adapters::find(int64_t layer, Projection projection) const {
  CTXC_CHECK(layer >= 0 && layer < static_cast<int64_t>(pairs_.size()), ErrorKind::kInternal, "",
             "adapter of layer {} (expected below {})", layer, pairs_.size());
  const auto& pair = pairs_[static_cast<size_t>(layer)][static_cast<size_t>(projection)];
  return pair ? &*pair : nullptr;
}

}  // namespace ctxc
