// What a kernel file may use, under nvcc and, unchanged, under a C++ compiler with host/language.h:
//   CTXC_SHARED(T, name, n)       T name[n] in shared memory
//   CTXC_DYNAMIC_SHARED(T, name)  T* name: the dynamic shared memory, aligned to 16 bytes
//   launch(kernel, grid, block, dynamic bytes, stream, arguments…)
//   wide(x), narrow<T>(x)         between a stored element (float, double, bfloat16) and what it is computed
//   in
#pragma once
#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <math.h>
#define CTXC_SHARED(T, name, n) __shared__ T name[n]
#define CTXC_DYNAMIC_SHARED(T, name)                                   \
  extern __shared__ __align__(16) unsigned char ctxc_dynamic_shared[]; \
  T* name = reinterpret_cast<T*>(ctxc_dynamic_shared)
#define CTXC_UNROLL _Pragma("unroll")
#define CTXC_UNROLL_TWICE _Pragma("unroll 2")
#else
#include "cuda_ext/host/language.h"
#define CTXC_SHARED(T, name, n)     \
  static const char name##_tag = 0; \
  T* const name = static_cast<T*>(::ctxc::cuda::host::Block::current().shared(&name##_tag, sizeof(T) * (n)))
#define CTXC_DYNAMIC_SHARED(T, name) \
  T* const name = static_cast<T*>(::ctxc::cuda::host::Block::current().dynamic_shared())
#define CTXC_UNROLL
#define CTXC_UNROLL_TWICE
#endif
#include <stdint.h>

namespace ctxc::cuda {

using bfloat16 = __nv_bfloat16;

/// The type an element is computed in.
template <class T>
struct WideOf {
  using type = T;
};
template <>
struct WideOf<bfloat16> {
  using type = float;
};
template <class T>
using Wide = typename WideOf<T>::type;

__device__ __forceinline__ float wide(float x) {
  return x;
}
__device__ __forceinline__ double wide(double x) {
  return x;
}
__device__ __forceinline__ float wide(bfloat16 x) {
  return __bfloat162float(x);
}

template <class T>
__device__ __forceinline__ T narrow(Wide<T> x) {
  if constexpr (sizeof(T) == 2)
    return __float2bfloat16(x);
  else
    return x;
}

/// n elements that lie together and are read or written at once (up to 16 bytes).
template <class T, int n>
struct alignas(sizeof(T) * n) Pack {
  T element[n];
};

/// Starts a kernel; the return value is a cudaError_t.
#ifdef __CUDACC__
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_bytes, cudaStream_t stream,
           Arguments... arguments) {
  kernel<<<grid, block, dynamic_bytes, stream>>>(static_cast<Parameters>(arguments)...);
  return static_cast<int>(cudaGetLastError());
}
#else
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t dynamic_bytes, cudaStream_t,
           Arguments... arguments) {
  if (dynamic_bytes > host::allowed_dynamic_shared(reinterpret_cast<const void*>(kernel)))
    throw host::KernelError("a launch with " + std::to_string(dynamic_bytes) +
                            " bytes of dynamic shared memory that the kernel was not allowed");
  host::run_grid(grid, block, dynamic_bytes, [&] { kernel(static_cast<Parameters>(arguments)...); });
  return 0;
}
#endif

constexpr unsigned kFullWarp = 0xffffffffu;

template <class A>
__device__ __forceinline__ A warp_sum(A value) {
  CTXC_UNROLL
  for (int offset = 16; offset > 0; offset >>= 1) value += __shfl_xor_sync(kFullWarp, value, offset);
  return value;
}

template <class A>
__device__ __forceinline__ A warp_max(A value) {
  CTXC_UNROLL
  for (int offset = 16; offset > 0; offset >>= 1)
    value = fmax(value, __shfl_xor_sync(kFullWarp, value, offset));
  return value;
}

/// Sum over the block, for every thread; `scratch` holds 32 elements of shared memory and is free again
/// afterwards.
template <class A>
__device__ __forceinline__ A block_sum(A value, A* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  value = warp_sum(value);
  if (lane == 0) scratch[warp] = value;
  __syncthreads();
  A total = 0;
  for (int w = 0; w < warps; ++w) total += scratch[w];
  __syncthreads();
  return total;
}

}  // namespace ctxc::cuda
