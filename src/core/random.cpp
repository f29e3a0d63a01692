#include "core/random.h"

#include <cmath>
#include <numbers>

#include "core/error.h"

namespace ctxc {
namespace {

/// The finalizer of SplitMix64: every bit of the result depends on every bit of the argument.
uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xBF58476D1CE4E5B9u;
  x ^= x >> 27;
  x *= 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

std::array<uint32_t, 2> make_key(uint64_t seed, std::string_view stream, uint64_t salt = 0) {
  const uint64_t key = mix(hash64(stream) ^ mix(seed + 0x9E3779B97F4A7C15u)) ^ salt * 0xD1342543DE82EF95u;
  return {static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)};
}

// Four rounds over as few values as there are indices prefer some orders of tiny sets by far more than chance
// (test SmallOnesAreFair); six rounds over at least 256 values do not.
constexpr uint32_t kFewestHalfBits = 4, kFeistelRounds = 6;

uint32_t low(uint64_t x) {
  return static_cast<uint32_t>(x);
}
uint32_t high(uint64_t x) {
  return static_cast<uint32_t>(x >> 32);
}

}  // namespace

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {high(product1) ^ counter[1] ^ key[0], low(product1), high(product0) ^ counter[3] ^ key[1],
               low(product0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

uint64_t hash64(std::string_view bytes) {
  uint64_t hash = 0xCBF29CE484222325u;
  for (char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001B3u;
  return mix(hash);
}

// The counter is (draw, step low, index low, index high); steps from 2^32 on go into the key instead.
CounterRng::CounterRng(uint64_t seed, std::string_view stream, uint64_t step, uint64_t index)
    : key_(make_key(seed, stream, step >> 32)), counter_{0, low(step), low(index), high(index)} {}

uint32_t CounterRng::next_u32() {
  if (used_ == 4) {
    block_ = philox4x32(counter_, key_);
    ++counter_[0];
    used_ = 0;
  }
  return block_[used_++];
}

uint64_t CounterRng::next_u64() {
  const uint64_t upper = next_u32();
  return upper << 32 | next_u32();
}

double CounterRng::uniform() {
  return static_cast<double>(next_u64() >> 11) * 0x1p-53;
}

// Lemire, "Fast random integer generation in an interval" (2019): the upper half of x·n, where the few x that
// would favour small results are drawn again.
uint64_t CounterRng::below(uint64_t n) {
  CTXC_CHECK(n > 0, ErrorKind::kInternal, "", "CounterRng::below: empty range (found n = 0, expected n > 0)");
  unsigned __int128 product = static_cast<unsigned __int128>(next_u64()) * n;
  if (static_cast<uint64_t>(product) < n) {
    const uint64_t threshold = (0 - n) % n;
    while (static_cast<uint64_t>(product) < threshold)
      product = static_cast<unsigned __int128>(next_u64()) * n;
  }
  return static_cast<uint64_t>(product >> 64);
}

double CounterRng::normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_;
  }
  const double radius = std::sqrt(-2 * std::log(1 - uniform()));
  const double angle = 2 * std::numbers::pi * uniform();
  spare_ = radius * std::sin(angle);
  has_spare_ = true;
  return radius * std::cos(angle);
}

KeyedPermutation::KeyedPermutation(uint64_t size, uint64_t seed, std::string_view stream, uint64_t epoch)
    : size_(size), half_bits_(kFewestHalfBits), key_(make_key(seed, stream)), epoch_(epoch) {
  while (half_bits_ < 32 && size_ > uint64_t{1} << (2 * half_bits_)) ++half_bits_;
}

uint64_t KeyedPermutation::operator[](uint64_t index) const {
  CTXC_CHECK(index < size_, ErrorKind::kInternal, "",
             "KeyedPermutation: index out of range (found {}, expected less than {})", index, size_);
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  // A network over 4^half_bits values maps some indices beyond size_; following its cycle comes back inside,
  // and stays one-to-one.
  do {
    uint64_t left = index >> half_bits_, right = index & mask;
    for (uint32_t round = 0; round < kFeistelRounds; ++round) {
      const auto block = philox4x32({low(right), round, low(epoch_), high(epoch_)}, key_);
      const uint64_t next = left ^ (block[0] & mask);
      left = right;
      right = next;
    }
    index = left << half_bits_ | right;
  } while (index >= size_);
  return index;
}

}  // namespace ctxc
