// The part of CUDA C++ that the kernels use, for a C++20 compiler: included instead of <cuda_runtime.h> and
// <cuda_bf16.h> where a .cu file is compiled as C++ (portable.cuh). Names and meaning are CUDA's.
#pragma once
#include <math.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "cuda_ext/host/block.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

using dim3 = ctxc::cuda::host::Dim3;
using cudaStream_t = void*;
enum cudaError_t : int { cudaSuccess = 0 };
constexpr int cudaFuncAttributeMaxDynamicSharedMemorySize = 8;

#define threadIdx (::ctxc::cuda::host::Block::current().thread_index())
#define blockIdx (::ctxc::cuda::host::Block::current().block_index())
#define blockDim (::ctxc::cuda::host::Block::current().block_dim())
#define gridDim (::ctxc::cuda::host::Block::current().grid_dim())

inline void __syncthreads(std::source_location where = std::source_location::current()) {
  ctxc::cuda::host::Block::current().barrier(where);
}

inline void __syncwarp(unsigned mask = ctxc::cuda::host::kAllLanes,
                       std::source_location where = std::source_location::current()) {
  ctxc::cuda::host::Block::current().exchange(ctxc::cuda::host::WarpOp::kSync, mask, 0, 0, 32, where);
}

namespace ctxc::cuda::host {

template <class T>
T shuffle(WarpOp op, unsigned mask, T value, int operand, int width, std::source_location where) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = Block::current().exchange(op, mask, bits, operand, width, where);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T, class Change>
T update(T* address, Change change) {
  const T before = *address;  // one OS thread: nothing comes between
  *address = change(before);
  return before;
}

}  // namespace ctxc::cuda::host

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32,
              std::source_location where = std::source_location::current()) {
  return ctxc::cuda::host::shuffle(ctxc::cuda::host::WarpOp::kIndex, mask, value, source, width, where);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                 std::source_location where = std::source_location::current()) {
  return ctxc::cuda::host::shuffle(ctxc::cuda::host::WarpOp::kUp, mask, value, static_cast<int>(delta), width,
                                   where);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                   std::source_location where = std::source_location::current()) {
  return ctxc::cuda::host::shuffle(ctxc::cuda::host::WarpOp::kDown, mask, value, static_cast<int>(delta),
                                   width, where);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                  std::source_location where = std::source_location::current()) {
  return ctxc::cuda::host::shuffle(ctxc::cuda::host::WarpOp::kXor, mask, value, lane_mask, width, where);
}

template <class T>
T atomicAdd(T* address, T value) {
  return ctxc::cuda::host::update(address, [&](T before) { return static_cast<T>(before + value); });
}
template <class T>
T atomicMax(T* address, T value) {
  return ctxc::cuda::host::update(address, [&](T before) { return before < value ? value : before; });
}
template <class T>
T atomicCAS(T* address, T expected, T value) {
  return ctxc::cuda::host::update(address, [&](T before) { return before == expected ? value : before; });
}

template <class T>
T rsqrt(T x) {
  return T{1} / std::sqrt(x);
}

template <class T>
T __ldg(const T* address) {
  return *address;
}

/// bfloat16: the upper half of a float32.
struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 value) {
  return std::bit_cast<float>(uint32_t{value.bits} << 16);
}
/// To nearest, ties to even; every NaN becomes 0x7fff, as on the device.
inline __nv_bfloat16 __float2bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
}

inline const char* cudaGetErrorString(cudaError_t) {
  return "no error";
}

template <class... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), int, int bytes) {
  ctxc::cuda::host::allow_dynamic_shared(reinterpret_cast<const void*>(kernel), static_cast<size_t>(bytes));
  return cudaSuccess;
}
