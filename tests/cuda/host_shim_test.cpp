// The host shim against the CUDA C++ Programming Guide: what it defines is computed, what it leaves undefined
// is refused, and a missing barrier is found.
#include <c10/util/BFloat16.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "cuda_ext/portable.cuh"

namespace ctxc::cuda {
namespace {

using host::KernelError;
using host::ScheduleSeed;

/// Runs `kernel` on one block of `threads`; the error's text, or "".
template <class... P, class... A>
std::string failure(void (*kernel)(P...), unsigned threads, A... arguments) {
  try {
    launch(kernel, dim3(1), dim3(threads), 0, nullptr, arguments...);
  } catch (const KernelError& error) {
    return error.what();
  }
  return "";
}

#define EXPECT_FAILS(part, ...)                                                                   \
  do {                                                                                            \
    const std::string found = failure(__VA_ARGS__);                                               \
    EXPECT_NE(found.find(part), std::string::npos) << "found: '" << found << "'\npart: " << part; \
  } while (false)

__global__ void mark(int* count, unsigned* threads, unsigned* blocks) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  ++count[block * 30 + thread];
  *threads = blockDim.x * blockDim.y * blockDim.z;
  *blocks = gridDim.x * gridDim.y * gridDim.z;
}

TEST(HostShim, EveryThreadOfEveryBlockRunsOnce) {
  for (const uint64_t seed : {0, 1, 2}) {
    const ScheduleSeed schedule(seed);
    std::vector<int> count(24 * 30, 0);
    unsigned threads = 0, blocks = 0;
    launch(&mark, dim3(2, 3, 4), dim3(5, 3, 2), 0, nullptr, count.data(), &threads, &blocks);
    EXPECT_EQ(threads, 30u);
    EXPECT_EQ(blocks, 24u);
    for (const int n : count) EXPECT_EQ(n, 1);
  }
}

enum class Shuffle { kIndex, kUp, kDown, kXor };

__global__ void shuffle_all(Shuffle kind, int operand, int width, int* out) {
  const int lane = threadIdx.x, value = 100 + lane;
  switch (kind) {
    case Shuffle::kIndex:
      out[lane] = __shfl_sync(kFullWarp, value, operand, width);
      break;
    case Shuffle::kUp:
      out[lane] = __shfl_up_sync(kFullWarp, value, operand, width);
      break;
    case Shuffle::kDown:
      out[lane] = __shfl_down_sync(kFullWarp, value, operand, width);
      break;
    case Shuffle::kXor:
      out[lane] = __shfl_xor_sync(kFullWarp, value, operand, width);
      break;
  }
}

/// The sentences of the guide's section "Warp Shuffle Functions", one a case.
int expected_lane(Shuffle kind, int lane, int operand, int width) {
  const int section = lane / width, inside = lane % width;
  switch (kind) {
    case Shuffle::kIndex:  // "if srcLane is outside the range [0:width-1], … srcLane modulo width"
      return section * width + ((operand % width) + width) % width;
    case Shuffle::kUp:  // "the source lane index will not wrap around the value of width, so … the lower
                        // delta lanes will be unchanged"
      return inside < operand ? lane : lane - operand;
    case Shuffle::kDown:  // "… the upper delta lanes will remain unchanged"
      return inside + operand >= width ? lane : lane + operand;
    case Shuffle::kXor: {  // "able to access elements from earlier groups …, later groups … their own value"
      const int source = lane ^ operand;
      return source / width > section ? lane : source;
    }
  }
  return -1;
}

TEST(HostShim, ShufflesFollowTheGuide) {
  for (const uint64_t seed : {0, 7})
    for (const Shuffle kind : {Shuffle::kIndex, Shuffle::kUp, Shuffle::kDown, Shuffle::kXor})
      for (const int width : {1, 2, 8, 32})
        for (int operand = kind == Shuffle::kIndex ? -3 : 0; operand < (kind == Shuffle::kIndex ? 70 : 32);
             ++operand) {
          const ScheduleSeed schedule(seed);
          std::vector<int> out(32);
          launch(&shuffle_all, dim3(1), dim3(32), 0, nullptr, kind, operand, width, out.data());
          for (int lane = 0; lane < 32; ++lane)
            ASSERT_EQ(out[lane], 100 + expected_lane(kind, lane, operand, width))
                << "kind " << static_cast<int>(kind) << " width " << width << " operand " << operand
                << " lane " << lane;
        }
}

__global__ void shuffle_types(double* d, float* f, int64_t* i) {
  d[threadIdx.x] = __shfl_sync(kFullWarp, 0.1 + threadIdx.x, 5);
  f[threadIdx.x] = __shfl_sync(kFullWarp, 0.1f + threadIdx.x, 5);
  i[threadIdx.x] = __shfl_sync(kFullWarp, -(int64_t{1} << 40) - threadIdx.x, 5);
}

TEST(HostShim, ShufflesKeepEveryBit) {
  std::vector<double> d(32);
  std::vector<float> f(32);
  std::vector<int64_t> i(32);
  launch(&shuffle_types, dim3(1), dim3(32), 0, nullptr, d.data(), f.data(), i.data());
  EXPECT_EQ(d[31], 5.1);
  EXPECT_EQ(f[31], 5.1f);
  EXPECT_EQ(i[31], -(int64_t{1} << 40) - 5);
}

/// Even and odd lanes reduce apart, a different number of times, then all together.
__global__ void shuffle_in_halves(int* out) {
  const unsigned evens = 0x55555555u, mask = threadIdx.x % 2 ? ~evens : evens;
  int sum = threadIdx.x;
  for (int offset = 2; offset < 32; offset *= 2) sum += __shfl_xor_sync(mask, sum, offset);
  if (threadIdx.x % 2)
    for (int i = 0; i < 3; ++i) sum = __shfl_sync(mask, sum, 1 + 2 * i);
  __syncwarp();
  out[threadIdx.x] = sum + __shfl_xor_sync(kFullWarp, sum, 1);
}

TEST(HostShim, MasksSplitAWarp) {
  for (uint64_t seed = 0; seed < 10; ++seed) {
    const ScheduleSeed schedule(seed);
    std::vector<int> out(32);
    launch(&shuffle_in_halves, dim3(1), dim3(32), 0, nullptr, out.data());
    for (const int value : out) EXPECT_EQ(value, 496);
  }
}

__global__ void reads_stranger() {
  __shfl_sync(0xffffu & (1u << threadIdx.x | 0xffffu), 1, 20);
}
__global__ void lacks_itself() {
  __shfl_xor_sync(0xfffeu, 1, 1);
}
__global__ void odd_width() {
  __shfl_xor_sync(kFullWarp, 1, 1, 12);
}
__global__ void two_lines() {
  if (threadIdx.x < 16)
    __shfl_xor_sync(kFullWarp, 1, 1);
  else
    __shfl_xor_sync(kFullWarp, 1, 2);
}
__global__ void part_of_a_warp() {
  if (threadIdx.x < 16) __syncwarp();
  if (threadIdx.x >= 16) __syncthreads();
}
__global__ void beyond_the_block() {
  __shfl_down_sync(kFullWarp, 1, 4);
}

TEST(HostShim, RefusesUndefinedWarpOperations) {
  EXPECT_FAILS("which takes no part", &reads_stranger, 16);
  EXPECT_FAILS("the mask lacks the calling lane 0", &lacks_itself, 16);
  EXPECT_FAILS("width 12 is no power of two", &odd_width, 32);
  EXPECT_FAILS("meet in different operations", &two_lines, 32);
  EXPECT_FAILS("16 wait at __syncthreads, 16 at a warp operation", &part_of_a_warp, 32);
  EXPECT_FAILS("which takes no part", &beyond_the_block, 20);
  EXPECT_EQ(failure(&beyond_the_block, 64), "");
}

__global__ void divergent() {
  if (threadIdx.x < 40) __syncthreads();
}
__global__ void two_barriers() {
  if (threadIdx.x % 2)
    __syncthreads();
  else
    __syncthreads();
}
__global__ void barrier_against_shuffle() {
  if (threadIdx.x < 16)
    __syncthreads();
  else
    __shfl_xor_sync(kFullWarp, 1.f, 1);
}

TEST(HostShim, FindsDivergentBarriers) {
  for (const uint64_t seed : {0, 3}) {
    const ScheduleSeed schedule(seed);
    EXPECT_FAILS("40 wait at __syncthreads, 0 at a warp operation, 24 have returned", &divergent, 64);
    EXPECT_EQ(failure(&divergent, 40), "");
    EXPECT_FAILS("wait at different barriers", &two_barriers, 64);
    EXPECT_FAILS("host_shim_test.cpp", &barrier_against_shuffle, 32);
  }
}

/// out[t] = in[t - 1] through shared memory. Without the barrier, threads that run in order never notice.
template <bool kBarrier>
__global__ void shift(const int* in, int* out) {
  CTXC_SHARED(int, line, 64);
  line[threadIdx.x] = in[threadIdx.x];
  if constexpr (kBarrier) __syncthreads();
  out[threadIdx.x] = threadIdx.x == 0 ? 0 : line[threadIdx.x - 1];
}

/// Two sums over a block with one scratch; without the second barrier a fast warp overwrites what a slow one
/// still reads.
template <bool kBarrier>
__global__ void two_sums(int* out) {
  CTXC_SHARED(int, scratch, 4);
  int result = 0;
  for (int round = 1; round <= 2; ++round) {
    const int sum = warp_sum(static_cast<int>(threadIdx.x) * round);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = sum;
    __syncthreads();
    for (int w = 0; w < 4; ++w) result += scratch[w];
    if constexpr (kBarrier) __syncthreads();
  }
  out[threadIdx.x] = result;
}

/// How many of 20 drawn orders give something else than `expected`.
template <class... P>
int orders_that_differ(void (*kernel)(P...), const std::vector<int>& in, const std::vector<int>& expected) {
  int count = 0;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const ScheduleSeed schedule(seed);
    std::vector<int> out(expected.size());
    if constexpr (sizeof...(P) == 2)
      launch(kernel, dim3(1), dim3(static_cast<unsigned>(out.size())), 0, nullptr, in.data(), out.data());
    else
      launch(kernel, dim3(1), dim3(static_cast<unsigned>(out.size())), 0, nullptr, out.data());
    count += out != expected;
  }
  return count;
}

TEST(HostShim, DrawnOrdersFindAMissingBarrier) {
  std::vector<int> in(64), expected(64, 0), out(64);
  std::iota(in.begin(), in.end(), 1);
  for (size_t t = 1; t < 64; ++t) expected[t] = in[t - 1];
  launch(&shift<false>, dim3(1), dim3(64), 0, nullptr, in.data(), out.data());
  EXPECT_EQ(out, expected) << "first to last, the planted bug stays hidden: that is why orders are drawn";
  EXPECT_GE(orders_that_differ(&shift<false>, in, expected), 15);
  EXPECT_EQ(orders_that_differ(&shift<true>, in, expected), 0);

  const std::vector<int> sums(128, 3 * 8128);
  EXPECT_GE(orders_that_differ(&two_sums<false>, {}, sums), 5);
  EXPECT_EQ(orders_that_differ(&two_sums<true>, {}, sums), 0);
}

TEST(HostShim, TheSameSeedIsTheSameOrder) {
  std::vector<int> in(64, 1), first(64), second(64);
  const ScheduleSeed schedule(5);
  launch(&shift<false>, dim3(1), dim3(64), 0, nullptr, in.data(), first.data());
  launch(&shift<false>, dim3(1), dim3(64), 0, nullptr, in.data(), second.data());
  EXPECT_EQ(first, second);
}

__global__ void peek(float* out) {
  CTXC_SHARED(float, fixed, 2);
  CTXC_SHARED(bfloat16, narrow_one, 1);
  CTXC_DYNAMIC_SHARED(double, dynamic);
  out[0] = fixed[1];
  out[1] = wide(narrow_one[0]);
  out[2] = static_cast<float>(dynamic[0]);
  fixed[1] = 1;
  dynamic[0] = 1;
}
__global__ void large_static() {
  CTXC_SHARED(double, memory, 30000);
  memory[0] = 0;
}
__global__ void nothing() {}

TEST(HostShim, SharedMemoryIsFreshAndLimited) {
  std::vector<float> out(3);
  launch(&peek, dim3(2), dim3(1), 8, nullptr, out.data());  // the second block sees nothing of the first
  for (const float value : out) EXPECT_TRUE(std::isnan(value));
  EXPECT_FAILS("240000 bytes of shared memory", &large_static, 1);
  EXPECT_THROW(launch(&nothing, dim3(1), dim3(1), 60000, nullptr), KernelError);
  cudaFuncSetAttribute(&nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000);
  EXPECT_EQ(launch(&nothing, dim3(1), dim3(1), 60000, nullptr), 0);
  EXPECT_THROW(launch(&nothing, dim3(1), dim3(1025), 0, nullptr), KernelError);
  EXPECT_THROW(launch(&nothing, dim3(0), dim3(32), 0, nullptr), KernelError);
  EXPECT_THROW(launch(&nothing, dim3(1, 65536), dim3(32), 0, nullptr), KernelError);
  EXPECT_THROW(__syncthreads(), KernelError);
}

__global__ void add_up(float* sum, int* largest, unsigned long long* turns) {
  atomicAdd(sum, 0.5f);
  atomicMax(largest, static_cast<int>(threadIdx.x ^ 21));
  unsigned long long seen = *turns, before;
  do {
    before = seen;
    seen = atomicCAS(turns, before, before + 2);
  } while (seen != before);
}

TEST(HostShim, AtomicsCountEveryThread) {
  for (const uint64_t seed : {0, 9}) {
    const ScheduleSeed schedule(seed);
    float sum = 0;
    int largest = -1;
    unsigned long long turns = 0;
    launch(&add_up, dim3(3), dim3(50), 0, nullptr, &sum, &largest, &turns);
    EXPECT_EQ(sum, 75);
    EXPECT_EQ(largest, 63);  // of thread 42
    EXPECT_EQ(turns, 300u);
  }
}

TEST(HostShim, BFloat16RoundsToNearestEven) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const bfloat16 narrowed{static_cast<uint16_t>(bits)};
    const float expected =
        static_cast<float>(c10::BFloat16(static_cast<uint16_t>(bits), c10::BFloat16::from_bits()));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(wide(narrowed)));
      continue;
    }
    ASSERT_EQ(wide(narrowed), expected);
    ASSERT_EQ(narrow<bfloat16>(expected).bits, bits);
    // Between this number and the next: below, at and above the middle.
    for (const uint32_t rest : {0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float value = std::bit_cast<float>(bits << 16 | rest);
      if (std::isnan(value)) continue;
      ASSERT_EQ(narrow<bfloat16>(value).bits, c10::BFloat16(value).x) << value;
    }
  }
  EXPECT_EQ(narrow<bfloat16>(std::numeric_limits<float>::quiet_NaN()).bits, 0x7fff);
  EXPECT_TRUE(std::isinf(wide(narrow<bfloat16>(std::numeric_limits<float>::max()))));
}

__global__ void throws(int thread) {
  if (static_cast<int>(threadIdx.x) == thread) throw std::out_of_range("thread " + std::to_string(thread));
  __syncthreads();
}

TEST(HostShim, ExceptionsLeaveTheKernel) {
  for (int thread = 0; thread < 64; thread += 21) {
    EXPECT_THROW(launch(&throws, dim3(2), dim3(64), 0, nullptr, thread), std::out_of_range);
    EXPECT_EQ(launch(&throws, dim3(2), dim3(64), 0, nullptr, -1), 0);  // and the next launch is sound
  }
}

}  // namespace
}  // namespace ctxc::cuda
