// Entropic transport plan in the log domain, with its unrolled backward (src/model/kernels/sinkhorn.h has the
// equations; here Z = -C / epsilon). One block a window; Z, u and v stay in shared memory over all
// iterations, so a window is read once and its plan written once, where one ATen call an operation would pass
// over [N, W, K] some ten times an iteration.
//   backward: with G = dL/dP * P, and for t = T..1:
//     s_ij = exp(Z_ij + u^t_i + v^t_j - log b_j):      gZ -= gv_j s_ij;  gu_i -= sum_j gv_j s_ij
//     r_ij = exp(Z_ij + v^(t-1)_j + u^t_i - log a_i):  gZ -= gu_i r_ij;  gv_j  = -sum_i gu_i r_ij;  glog_a_i
//     += gu_i
// Rows of the tile have an odd stride: lanes that walk down a column meet 32 different banks.
#pragma once
#include "cuda_ext/launchers.h"
#include "cuda_ext/portable.cuh"

namespace ctxc::cuda {

constexpr int kSinkhornThreads = 256;
constexpr double kSinkhornSmallestMass = 1e-20, kSinkhornMasked = -1e9;

template <class T>
struct SinkhornForward {
  const T* cost;
  const Wide<T>*a, *b;
  T* plan;
  Wide<T>*u, *v;
  int rows, columns, iterations;
  Wide<T> epsilon;
};

template <class T>
struct SinkhornBackward {
  const T *grad_plan, *cost;
  const Wide<T>*a, *b, *u, *v;
  Wide<T>*grad_cost, *grad_a;
  int rows, columns, iterations;
  Wide<T> epsilon;
};

__device__ __forceinline__ int sinkhorn_stride(int columns) {
  return columns | 1;
}

/// Z of one window: from the tile in shared memory, or, for windows that do not fit, from the cost.
template <class T, bool kTile>
struct Exponents {
  const T* cost;
  const Wide<T>* tile;
  int columns;
  Wide<T> epsilon;
  __device__ __forceinline__ Wide<T> operator()(int i, int j) const {
    if constexpr (kTile) return tile[i * sinkhorn_stride(columns) + j];
    return -wide(cost[static_cast<int64_t>(i) * columns + j]) / epsilon;
  }
};

/// log sum_x exp(term(x)) over x < length, by one warp.
template <class A, class Term>
__device__ __forceinline__ A warp_log_sum_exp(int length, Term term) {
  const int lane = threadIdx.x % 32;
  A top = -INFINITY;
  for (int x = lane; x < length; x += 32) top = fmax(top, term(x));
  top = warp_max(top);
  A sum = 0;
  for (int x = lane; x < length; x += 32) sum += exp(term(x) - top);
  return top + log(warp_sum(sum));
}

template <class A, class Term>
__device__ __forceinline__ A warp_sum_of(int length, Term term) {
  A sum = 0;
  for (int x = threadIdx.x % 32; x < length; x += 32) sum += term(x);
  return warp_sum(sum);
}

template <class T>
__device__ __forceinline__ void fill_tile(Wide<T>* tile, const T* cost, int rows, int columns,
                                          Wide<T> epsilon) {
  for (int e = threadIdx.x; e < rows * columns; e += blockDim.x)
    tile[e / columns * sinkhorn_stride(columns) + e % columns] = -wide(cost[e]) / epsilon;
}

template <class A>
__device__ __forceinline__ void fill_logs(A* logs, const A* mass, int count) {
  for (int x = threadIdx.x; x < count; x += blockDim.x)
    logs[x] = log(fmax(mass[x], static_cast<A>(kSinkhornSmallestMass)));
}

/// Shared memory: log a, u [rows]; log b, v [columns]; the tile.
template <class T, bool kTile>
__global__ void __launch_bounds__(kSinkhornThreads, 2) sinkhorn_forward_kernel(SinkhornForward<T> p) {
  using A = Wide<T>;
  CTXC_DYNAMIC_SHARED(A, memory);
  A *log_a = memory, *u = log_a + p.rows, *log_b = u + p.rows, *v = log_b + p.columns, *tile = v + p.columns;
  const int64_t window = blockIdx.x;
  const int warp = threadIdx.x / 32, warps = kSinkhornThreads / 32, lane = threadIdx.x % 32;
  const T* cost = p.cost + window * p.rows * p.columns;
  const A *a = p.a + window * p.rows, *b = p.b + window * p.columns;
  const Exponents<T, kTile> z{cost, tile, p.columns, p.epsilon};
  if constexpr (kTile) fill_tile(tile, cost, p.rows, p.columns, p.epsilon);
  fill_logs(log_a, a, p.rows);
  fill_logs(log_b, b, p.columns);
  for (int j = threadIdx.x; j < p.columns; j += kSinkhornThreads) v[j] = 0;
  __syncthreads();
  for (int t = 0; t < p.iterations; ++t) {
    A* all_u = p.u + (window * p.iterations + t) * p.rows;
    A* all_v = p.v + (window * p.iterations + t) * p.columns;
    for (int i = warp; i < p.rows; i += warps) {
      const A sum = warp_log_sum_exp<A>(p.columns, [&](int j) { return z(i, j) + v[j]; });
      if (lane == 0) all_u[i] = u[i] = a[i] > 0 ? log_a[i] - sum : static_cast<A>(kSinkhornMasked);
    }
    __syncthreads();
    for (int j = warp; j < p.columns; j += warps) {
      const A sum = warp_log_sum_exp<A>(p.rows, [&](int i) { return z(i, j) + u[i]; });
      if (lane == 0) all_v[j] = v[j] = b[j] > 0 ? log_b[j] - sum : static_cast<A>(kSinkhornMasked);
    }
    __syncthreads();
  }
  T* plan = p.plan + window * p.rows * p.columns;
  for (int e = threadIdx.x; e < p.rows * p.columns; e += kSinkhornThreads) {
    const int i = e / p.columns, j = e % p.columns;
    plan[e] = narrow<T>(a[i] > 0 && b[j] > 0 ? exp(z(i, j) + u[i] + v[j]) : A{0});
  }
}

/// gZ of one window, like Exponents; without a tile it gathers in grad_cost.
template <class A, bool kTile>
struct ExponentGradient {
  A *global, *tile;
  int columns;
  __device__ __forceinline__ A& operator()(int i, int j) const {
    if constexpr (kTile) return tile[i * sinkhorn_stride(columns) + j];
    return global[static_cast<int64_t>(i) * columns + j];
  }
};

/// Shared memory: log a, u, gu, glog_a [rows]; log b, v, v of the iteration before, gv [columns]; tiles of Z
/// and gZ.
template <class T, bool kTile>
__global__ void __launch_bounds__(kSinkhornThreads, 2) sinkhorn_backward_kernel(SinkhornBackward<T> p) {
  using A = Wide<T>;
  CTXC_DYNAMIC_SHARED(A, memory);
  A *log_a = memory, *u = log_a + p.rows, *grad_u = u + p.rows, *grad_log_a = grad_u + p.rows,
    *log_b = grad_log_a + p.rows, *v = log_b + p.columns, *v_before = v + p.columns,
    *grad_v = v_before + p.columns, *tile = grad_v + p.columns;
  const int64_t window = blockIdx.x, cells = static_cast<int64_t>(p.rows) * p.columns;
  const int warp = threadIdx.x / 32, warps = kSinkhornThreads / 32, lane = threadIdx.x % 32,
            last = p.iterations - 1;
  const T *cost = p.cost + window * cells, *grad_plan = p.grad_plan + window * cells;
  const A *a = p.a + window * p.rows, *b = p.b + window * p.columns;
  const Exponents<T, kTile> z{cost, tile, p.columns, p.epsilon};
  const ExponentGradient<A, kTile> grad{p.grad_cost + window * cells,
                                        tile + p.rows * sinkhorn_stride(p.columns), p.columns};
  if constexpr (kTile) fill_tile(tile, cost, p.rows, p.columns, p.epsilon);
  fill_logs(log_a, a, p.rows);
  fill_logs(log_b, b, p.columns);
  for (int i = threadIdx.x; i < p.rows; i += kSinkhornThreads) grad_log_a[i] = 0;
  for (int t = last; t >= 0; --t) {
    const A *all_u = p.u + (window * p.iterations + t) * p.rows,
            *all_v = p.v + (window * p.iterations + t) * p.columns;
    for (int i = threadIdx.x; i < p.rows; i += kSinkhornThreads) u[i] = all_u[i];
    for (int j = threadIdx.x; j < p.columns; j += kSinkhornThreads) {
      v[j] = all_v[j];
      v_before[j] = t > 0 ? all_v[j - p.columns] : A{0};
    }
    __syncthreads();
    if (t == last) {  // through P
      for (int i = warp; i < p.rows; i += warps) {
        const A sum = warp_sum_of<A>(p.columns, [&](int j) {
          const A plan = a[i] > 0 && b[j] > 0 ? exp(z(i, j) + u[i] + v[j]) : A{0};
          return grad(i, j) = wide(grad_plan[static_cast<int64_t>(i) * p.columns + j]) * plan;
        });
        if (lane == 0) grad_u[i] = sum;
      }
      __syncthreads();
      for (int j = warp; j < p.columns; j += warps) {
        const A sum = warp_sum_of<A>(p.rows, [&](int i) { return grad(i, j); });
        if (lane == 0) grad_v[j] = sum;
      }
      __syncthreads();
    }
    for (int i = warp; i < p.rows; i += warps) {  // through v^t
      const A sum = warp_sum_of<A>(p.columns, [&](int j) {
        const A part = grad_v[j] * exp(z(i, j) + u[i] + v[j] - log_b[j]);
        grad(i, j) -= part;
        return part;
      });
      if (lane == 0) {
        grad_u[i] = (t == last ? grad_u[i] : A{0}) - sum;
        grad_log_a[i] += grad_u[i];
      }
    }
    __syncthreads();
    for (int j = warp; j < p.columns; j += warps) {  // through u^t
      const A sum = warp_sum_of<A>(p.rows, [&](int i) {
        const A part = grad_u[i] * exp(z(i, j) + u[i] + v_before[j] - log_a[i]);
        grad(i, j) -= part;
        return part;
      });
      if (lane == 0) grad_v[j] = -sum;
    }
    __syncthreads();
  }
  A* grad_cost = p.grad_cost + window * cells;
  for (int e = threadIdx.x; e < cells; e += kSinkhornThreads)
    grad_cost[e] = -grad(e / p.columns, e % p.columns) / p.epsilon;
  for (int i = threadIdx.x; i < p.rows; i += kSinkhornThreads)
    p.grad_a[window * p.rows + i] =
        a[i] >= static_cast<A>(kSinkhornSmallestMass) ? grad_log_a[i] / a[i] : A{0};
}

}  // namespace ctxc::cuda
