// RMSNorm and the rotation of queries and keys of a Llama layer (src/model/kernels/norm_rope.h has the
// equations), each in one pass over memory and with one rounding, where ATen calls for them write five
// intermediates in float32.
//   norm   a block a row; backward  grad_x = r (w g) - x r^3 mean(w g x)  with r = 1 / sqrt(mean(x^2) + eps)
//   rope   a block a token, q and k in one launch; backward is the rotation by minus the angle
#pragma once
#include "cuda_ext/launchers.h"
#include "cuda_ext/portable.cuh"

namespace ctxc::cuda {

constexpr int kNormThreads = 256, kRopeThreads = 256;

template <class T, class W, int kPack>
__global__ void __launch_bounds__(kNormThreads, 4)
    rms_norm_forward_kernel(const T* x, const W* weight, Wide<T> eps, T* y, Wide<T>* inverse, int width) {
  using A = Wide<T>;
  CTXC_SHARED(A, scratch, 32);
  const int64_t row = blockIdx.x;
  const T* from = x + row * width;
  T* to = y + row * width;
  A square = 0;
  for (int c = threadIdx.x * kPack; c < width; c += kNormThreads * kPack) {
    const auto part = *reinterpret_cast<const Pack<T, kPack>*>(from + c);
    CTXC_UNROLL
    for (int e = 0; e < kPack; ++e) square += wide(part.element[e]) * wide(part.element[e]);
  }
  const A r = A{1} / sqrt(block_sum(square, scratch) / width + eps);
  if (threadIdx.x == 0) inverse[row] = r;
  for (int c = threadIdx.x * kPack; c < width; c += kNormThreads * kPack) {
    auto part = *reinterpret_cast<const Pack<T, kPack>*>(from + c);  // from the L1 cache
    const auto factor = *reinterpret_cast<const Pack<W, kPack>*>(weight + c);
    CTXC_UNROLL
    for (int e = 0; e < kPack; ++e)
      part.element[e] = narrow<T>(wide(part.element[e]) * r * static_cast<A>(wide(factor.element[e])));
    *reinterpret_cast<Pack<T, kPack>*>(to + c) = part;
  }
}

template <class T, class W, int kPack>
__global__ void __launch_bounds__(kNormThreads, 4)
    rms_norm_backward_kernel(const T* grad_y, const T* x, const W* weight, const Wide<T>* inverse, T* grad_x,
                             int width) {
  using A = Wide<T>;
  CTXC_SHARED(A, scratch, 32);
  const int64_t row = blockIdx.x;
  const T *grad = grad_y + row * width, *from = x + row * width;
  T* to = grad_x + row * width;
  A dot = 0;
  for (int c = threadIdx.x * kPack; c < width; c += kNormThreads * kPack) {
    const auto g = *reinterpret_cast<const Pack<T, kPack>*>(grad + c);
    const auto part = *reinterpret_cast<const Pack<T, kPack>*>(from + c);
    const auto factor = *reinterpret_cast<const Pack<W, kPack>*>(weight + c);
    CTXC_UNROLL
    for (int e = 0; e < kPack; ++e)
      dot += wide(g.element[e]) * static_cast<A>(wide(factor.element[e])) * wide(part.element[e]);
  }
  const A r = inverse[row], along = r * r * r * (block_sum(dot, scratch) / width);
  for (int c = threadIdx.x * kPack; c < width; c += kNormThreads * kPack) {
    const auto g = *reinterpret_cast<const Pack<T, kPack>*>(grad + c);
    auto part = *reinterpret_cast<const Pack<T, kPack>*>(from + c);
    const auto factor = *reinterpret_cast<const Pack<W, kPack>*>(weight + c);
    CTXC_UNROLL
    for (int e = 0; e < kPack; ++e)
      part.element[e] = narrow<T>(r * static_cast<A>(wide(factor.element[e])) * wide(g.element[e]) -
                                  along * wide(part.element[e]));
    *reinterpret_cast<Pack<T, kPack>*>(to + c) = part;
  }
}

/// (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin) on the halves of one head.
template <class T, int kPack>
__device__ __forceinline__ void rotate(const T* from, T* to, const T* cos, const T* sin, int half, int c,
                                       Wide<T> direction) {
  const auto cosine = *reinterpret_cast<const Pack<T, kPack>*>(cos + c);
  const auto sine = *reinterpret_cast<const Pack<T, kPack>*>(sin + c);
  auto low = *reinterpret_cast<const Pack<T, kPack>*>(from + c);
  auto high = *reinterpret_cast<const Pack<T, kPack>*>(from + half + c);
  CTXC_UNROLL
  for (int e = 0; e < kPack; ++e) {
    const Wide<T> x1 = wide(low.element[e]), x2 = wide(high.element[e]), cs = wide(cosine.element[e]),
                  sn = direction * wide(sine.element[e]);
    low.element[e] = narrow<T>(x1 * cs - x2 * sn);
    high.element[e] = narrow<T>(x2 * cs + x1 * sn);
  }
  *reinterpret_cast<Pack<T, kPack>*>(to + c) = low;
  *reinterpret_cast<Pack<T, kPack>*>(to + half + c) = high;
}

template <class T, int kPack>
__global__ void __launch_bounds__(kRopeThreads)
    rope_qk_kernel(const T* q, const T* k, const T* cos, const T* sin, T* q_out, T* k_out, int q_heads,
                   int k_heads, int half, Wide<T> direction) {
  const int64_t token = blockIdx.x;
  const int packs = half / kPack, items = (q_heads + k_heads) * packs;
  for (int item = threadIdx.x; item < items; item += kRopeThreads) {
    const int head = item / packs, c = item % packs * kPack;
    const bool query = head < q_heads;
    const int64_t offset = (query ? token * q_heads + head : token * k_heads + head - q_heads) * (2 * half);
    rotate<T, kPack>((query ? q : k) + offset, (query ? q_out : k_out) + offset, cos + token * half,
                     sin + token * half, half, c, direction);
  }
}

}  // namespace ctxc::cuda
