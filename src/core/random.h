// Randomness without state: every draw is a pure function of (seed, stream, step, index), so that a resumed
// run sees the numbers of an uninterrupted one. Philox4x32-10 (Salmon et al., "Parallel random numbers: as
// easy as 1, 2, 3", SC 2011) with the key made from (seed, stream) and the counter from (step, index, draw).
#pragma once
#include <array>
#include <cstdint>
#include <string_view>

namespace ctxc {

/// Where in a run a draw happens. `micro` is the micro-batch inside the step.
struct StepKey {
  uint64_t seed = 0;
  int64_t step = 0;
  int64_t micro = 0;
  bool training = true;
};

/// One block of Philox4x32-10.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// 64-bit FNV-1a, then mixed: stable over platforms and versions (names of streams, cache keys; not for
/// security).
uint64_t hash64(std::string_view bytes);

class CounterRng {
 public:
  CounterRng(uint64_t seed, std::string_view stream, uint64_t step = 0, uint64_t index = 0);
  uint32_t next_u32();
  uint64_t next_u64();
  double uniform();            ///< [0, 1), 53 bits
  uint64_t below(uint64_t n);  ///< [0, n), unbiased; n > 0
  double normal();             ///< mean 0, variance 1 (Box-Muller)

 private:
  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> counter_;
  std::array<uint32_t, 4> block_{};
  int used_ = 4;
  bool has_spare_ = false;
  double spare_ = 0;
};

/// A permutation of 0..size-1 that depends on (seed, stream, epoch) alone and needs no table: a six-round
/// Feistel network over the next even power of two (at least 256), with cycle walking.
class KeyedPermutation {
 public:
  KeyedPermutation(uint64_t size, uint64_t seed, std::string_view stream, uint64_t epoch = 0);
  uint64_t operator[](uint64_t index) const;  ///< index < size
  uint64_t size() const { return size_; }

 private:
  uint64_t size_;
  uint32_t half_bits_;
  std::array<uint32_t, 2> key_;
  uint64_t epoch_;
};

}  // namespace ctxc
