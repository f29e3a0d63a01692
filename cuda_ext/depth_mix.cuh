// Depth-wise gate and mix of ComprExIT over hidden states h_0..h_S-1 [P, D] that stay where they are
// (src/model/kernels/depth_mix.h has the equations). A block takes one token at a time:
//   products   a warp a state:    c_l = g . h_l
//   gate       one warp:          softmax over l, or its backward
//   mix        a thread some columns: x = sum_l w_l h_l
// Gate and mix need all products first, so the states are read twice; but the second time from the L2 cache:
// there is one block a multiprocessor, and on an H100 132 tokens of 33 states of 4096 bf16 are 36 of 50 MB.
// (More blocks at a time would not be faster, and would read everything twice from memory.)
#pragma once
#include "cuda_ext/launchers.h"
#include "cuda_ext/portable.cuh"

namespace ctxc::cuda {

constexpr int kDepthThreads = 1024;

template <class T, int kPack>
__device__ __forceinline__ const T* row_of(const StateList& states, int l, int64_t token, int width) {
  return static_cast<const T*>(states.state[l]) + token * width;
}

/// products[l] = g . h_l of one token, for all threads after the barrier inside.
template <class T, int kPack>
__device__ __forceinline__ void token_products(const StateList& states, int64_t token, int width,
                                               const Wide<T>* g, Wide<T>* products) {
  using A = Wide<T>;
  const int lane = threadIdx.x % 32;
  for (int l = threadIdx.x / 32; l < states.count; l += kDepthThreads / 32) {
    const T* h = row_of<T, kPack>(states, l, token, width);
    A sum = 0;
    CTXC_UNROLL_TWICE
    for (int x = lane * kPack; x < width; x += 32 * kPack) {
      const auto part = *reinterpret_cast<const Pack<T, kPack>*>(h + x);
      const auto factor = *reinterpret_cast<const Pack<A, kPack>*>(g + x);
      CTXC_UNROLL
      for (int e = 0; e < kPack; ++e) sum += wide(part.element[e]) * factor.element[e];
    }
    sum = warp_sum(sum);
    if (lane == 0) products[l] = sum;
  }
  __syncthreads();
}

/// out [D] = sum_l weights[l] h_l of one token.
template <class T, int kPack>
__device__ __forceinline__ void token_mix(const StateList& states, int64_t token, int width,
                                          const Wide<T>* weights, Wide<T>* out) {
  using A = Wide<T>;
  for (int x = threadIdx.x * kPack; x < width; x += kDepthThreads * kPack) {
    Pack<A, kPack> sum;
    CTXC_UNROLL
    for (int e = 0; e < kPack; ++e) sum.element[e] = 0;
    CTXC_UNROLL_TWICE
    for (int l = 0; l < states.count; ++l) {
      const auto part =
          *reinterpret_cast<const Pack<T, kPack>*>(row_of<T, kPack>(states, l, token, width) + x);
      const A weight = weights[l];
      CTXC_UNROLL
      for (int e = 0; e < kPack; ++e) sum.element[e] += weight * wide(part.element[e]);
    }
    *reinterpret_cast<Pack<A, kPack>*>(out + x) = sum;
  }
}

/// softmax over l of scale (products + offset), by warp 0; written to `weights` (shared) and `kept` (global).
template <class A>
__device__ __forceinline__ void gate(const A* products, const A* offset, A scale, int states, A* weights,
                                     A* kept) {
  if (threadIdx.x >= 32) return;
  A top = -INFINITY;
  for (int l = threadIdx.x; l < states; l += 32) top = fmax(top, scale * (products[l] + offset[l]));
  top = warp_max(top);
  A sum = 0;
  for (int l = threadIdx.x; l < states; l += 32) sum += exp(scale * (products[l] + offset[l]) - top);
  sum = warp_sum(sum);
  for (int l = threadIdx.x; l < states; l += 32)
    kept[l] = weights[l] = exp(scale * (products[l] + offset[l]) - top) / sum;
}

/// Its backward: from dL/dweights (products, plus `more` where given) to dL/d(product + offset).
template <class A>
__device__ __forceinline__ void gate_backward(const A* products, const A* more, const A* weights, A scale,
                                              int states, A* grad, A* kept) {
  if (threadIdx.x >= 32) return;
  A mean = 0;
  for (int l = threadIdx.x; l < states; l += 32) mean += weights[l] * (products[l] + (more ? more[l] : A{0}));
  mean = warp_sum(mean);
  for (int l = threadIdx.x; l < states; l += 32)
    kept[l] = grad[l] = scale * weights[l] * (products[l] + (more ? more[l] : A{0}) - mean);
}

template <class T, int kPack>
__global__ void __launch_bounds__(kDepthThreads, 1)
    state_products_kernel(StateList states, const Wide<T>* g, Wide<T>* out, int64_t tokens, int width) {
  CTXC_SHARED(Wide<T>, products, kMostStates);
  for (int64_t token = blockIdx.x; token < tokens; token += gridDim.x) {
    token_products<T, kPack>(states, token, width, g + token * width, products);
    for (int l = threadIdx.x; l < states.count; l += kDepthThreads)
      out[token * states.count + l] = products[l];
    __syncthreads();
  }
}

template <class T, int kPack>
__global__ void __launch_bounds__(kDepthThreads, 1)
    weighted_states_kernel(StateList states, const Wide<T>* weights, int64_t weight_stride, Wide<T>* out,
                           int64_t tokens, int width) {
  for (int64_t token = blockIdx.x; token < tokens; token += gridDim.x)
    token_mix<T, kPack>(states, token, width, weights + token * weight_stride, out + token * width);
}

template <class T, int kPack>
__global__ void __launch_bounds__(kDepthThreads, 1)
    depth_gate_mix_kernel(StateList states, const Wide<T>* pull, const Wide<T>* offset, Wide<T> scale,
                          Wide<T>* weights, Wide<T>* mixed, int64_t tokens, int width) {
  CTXC_SHARED(Wide<T>, products, kMostStates);
  CTXC_SHARED(Wide<T>, gated, kMostStates);
  for (int64_t token = blockIdx.x; token < tokens; token += gridDim.x) {
    const int64_t row = token * states.count;
    token_products<T, kPack>(states, token, width, pull + token * width, products);
    gate(products, offset + row, scale, states.count, gated, weights + row);
    __syncthreads();
    token_mix<T, kPack>(states, token, width, gated, mixed + token * width);
    __syncthreads();
  }
}

template <class T, int kPack>
__global__ void __launch_bounds__(kDepthThreads, 1)
    depth_gate_mix_backward_kernel(StateList states, const Wide<T>* grad_mixed, const Wide<T>* grad_weights,
                                   const Wide<T>* weights, Wide<T> scale, Wide<T>* grad_offset,
                                   Wide<T>* grad_pull, int64_t tokens, int width) {
  CTXC_SHARED(Wide<T>, products, kMostStates);
  CTXC_SHARED(Wide<T>, grad, kMostStates);
  for (int64_t token = blockIdx.x; token < tokens; token += gridDim.x) {
    const int64_t row = token * states.count;
    token_products<T, kPack>(states, token, width, grad_mixed + token * width, products);
    gate_backward(products, grad_weights ? grad_weights + row : nullptr, weights + row, scale, states.count,
                  grad, grad_offset + row);
    __syncthreads();
    token_mix<T, kPack>(states, token, width, grad, grad_pull + token * width);
    __syncthreads();
  }
}

}  // namespace ctxc::cuda
