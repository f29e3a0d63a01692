// Low-rank adapters (Hu et al., "LoRA", 2021) that a call switches on: y = W x + scale * B (A x).
// The frozen backbone holds none; a method hands its Adapters to the one forward pass that shall use them.
// With dropout rate p, in training: y = W x + scale * B (A (m * x / (1 - p))), every element of m 0 with
// probability p, else 1 (as PEFT); m is a pure function of (seed, step, adapter, row, column).
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "model/shapes.h"

namespace ctxc {

enum class Projection { kQ, kK, kV, kO, kGate, kUp, kDown };
constexpr int kProjections = 7;
std::string_view name_of(Projection projection);  ///< "q_proj", …

struct LoraDropout {
  double rate = 0;  ///< 0 = off
  uint64_t seed = 0, step = 0, adapter = 0;
};

struct LoraPair {
  Tensor a_RD;  ///< [R, in]
  Tensor b_DR;  ///< [out, R]
  double scale = 1;
  LoraDropout dropout = {};
};

class Adapters {
 public:
  explicit Adapters(int64_t layers) : pairs_(layers) {}
  void set(int64_t layer, Projection projection, LoraPair pair);
  const LoraPair* find(int64_t layer, Projection projection) const;

 private:
  std::vector<std::array<std::optional<LoraPair>, kProjections>> pairs_;
};

}  // namespace ctxc
