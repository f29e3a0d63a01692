// The diffusion channel and one DDIM update (src/model/kernels/diffusion_step.h has the equations), each in
// one pass over the latents where ATen calls write about ten intermediates of their size. A warp a row; a
// level for the row or (kEach) for every element. With s = sqrt(abar), n = sqrt(1 - abar) and a log-SNR lam:
//   ds/dlam = s n^2 / 2,  dn/dlam = -n s^2 / 2
// so that the gradient of a level is s n / 2 (n d/ds - s d/dn): nothing is divided by n, and the clean end
// (n = 0), where the derivative of the root of 1 - abar is infinite, gives 0 and no NaN.
#pragma once
#include "cuda_ext/launchers.h"
#include "cuda_ext/portable.cuh"

namespace ctxc::cuda {

constexpr int kDiffusionThreads = 256, kDiffusionRows = kDiffusionThreads / 32;

/// sqrt(abar) and sqrt(1 - abar).
template <class A>
struct Level {
  A signal, noise;
};

template <class A>
__device__ __forceinline__ Level<A> level_of(A log_snr) {
  return {rsqrt(A{1} + exp(-log_snr)), rsqrt(A{1} + exp(log_snr))};
}

/// d/dlam of what has these derivatives with respect to the amplitudes.
template <class A>
__device__ __forceinline__ A by_log_snr(Level<A> at, A by_signal, A by_noise) {
  return at.signal * at.noise / 2 * (at.noise * by_signal - at.signal * by_noise);
}

/// The levels of the pack last read.
template <class A, int kPack, bool kEach>
struct Levels {
  const A* log_snr;  ///< of the row
  Level<A> row;
  Pack<A, kPack> each;
  __device__ __forceinline__ Levels(const A* levels, int64_t index, int width)
      : log_snr(levels + index * (kEach ? width : 1)), row(), each() {
    if constexpr (!kEach) row = level_of(*log_snr);
  }
  __device__ __forceinline__ void read(int c) {
    if constexpr (kEach) each = *reinterpret_cast<const Pack<A, kPack>*>(log_snr + c);
  }
  __device__ __forceinline__ Level<A> operator[](int e) const {
    if constexpr (kEach)
      return level_of(each.element[e]);
    else
      return row;
  }
};

/// Their gradients: summed over the row, or written pack by pack.
template <class A, int kPack, bool kEach>
struct LevelGradients {
  A* out;  ///< of the row
  A sum;
  Pack<A, kPack> each;
  __device__ __forceinline__ LevelGradients(A* gradients, int64_t index, int width)
      : out(gradients + index * (kEach ? width : 1)), sum(0), each() {}
  __device__ __forceinline__ void add(int e, A gradient) {
    if constexpr (kEach)
      each.element[e] = gradient;
    else
      sum += gradient;
  }
  __device__ __forceinline__ void write(int c) {
    if constexpr (kEach) *reinterpret_cast<Pack<A, kPack>*>(out + c) = each;
  }
  /// By all lanes of the row's warp.
  __device__ __forceinline__ void finish(int lane) {
    if constexpr (!kEach) {
      const A total = warp_sum(sum);
      if (lane == 0) *out = total;
    }
  }
};

/// eps may be null.
template <class T, int kPack, bool kEach>
__global__ void __launch_bounds__(kDiffusionThreads, 3)
    diffuse_kernel(const T* clean, const Wide<T>* log_snr, const T* eps, T* z, int64_t rows, int width) {
  using A = Wide<T>;
  const int lane = threadIdx.x % 32;
  const int64_t row = int64_t{blockIdx.x} * kDiffusionRows + threadIdx.x / 32, first = row * width;
  if (row >= rows) return;
  Levels<A, kPack, kEach> levels(log_snr, row, width);
  for (int c = lane * kPack; c < width; c += 32 * kPack) {
    auto part = *reinterpret_cast<const Pack<T, kPack>*>(clean + first + c);
    Pack<T, kPack> noise{};
    if (eps) noise = *reinterpret_cast<const Pack<T, kPack>*>(eps + first + c);
    levels.read(c);
    CTXC_UNROLL
    for (int e = 0; e < kPack; ++e) {
      const Level<A> at = levels[e];
      A value = at.signal * wide(part.element[e]);
      if (eps) value += at.noise * wide(noise.element[e]);
      part.element[e] = narrow<T>(value);
    }
    *reinterpret_cast<Pack<T, kPack>*>(z + first + c) = part;
  }
}

template <class T, int kPack, bool kEach>
__global__ void __launch_bounds__(kDiffusionThreads, 3)
    diffuse_backward_kernel(const T* grad_z, const T* clean, const Wide<T>* log_snr, const T* eps,
                            T* grad_clean, Wide<T>* grad_log_snr, int64_t rows, int width) {
  using A = Wide<T>;
  const int lane = threadIdx.x % 32;
  const int64_t row = int64_t{blockIdx.x} * kDiffusionRows + threadIdx.x / 32, first = row * width;
  if (row >= rows) return;
  Levels<A, kPack, kEach> levels(log_snr, row, width);
  LevelGradients<A, kPack, kEach> gradients(grad_log_snr, row, width);
  for (int c = lane * kPack; c < width; c += 32 * kPack) {
    auto grad = *reinterpret_cast<const Pack<T, kPack>*>(grad_z + first + c);
    const auto part = *reinterpret_cast<const Pack<T, kPack>*>(clean + first + c);
    Pack<T, kPack> noise{};
    if (eps) noise = *reinterpret_cast<const Pack<T, kPack>*>(eps + first + c);
    levels.read(c);
    CTXC_UNROLL
    for (int e = 0; e < kPack; ++e) {
      const Level<A> at = levels[e];
      const A g = wide(grad.element[e]);
      gradients.add(e, by_log_snr(at, g * wide(part.element[e]), eps ? g * wide(noise.element[e]) : A{0}));
      grad.element[e] = narrow<T>(at.signal * g);
    }
    *reinterpret_cast<Pack<T, kPack>*>(grad_clean + first + c) = grad;
    gradients.write(c);
  }
  gradients.finish(lane);
}

/// zhat0 and epshat of one element, and the amplitude that epshat was divided by (1 for a velocity).
template <class A>
struct Estimate {
  A clean, eps, divisor;
};

template <class A>
__device__ __forceinline__ Estimate<A> estimate(Level<A> at, A z, A predicted, bool velocity) {
  if (velocity) return {at.signal * z - at.noise * predicted, at.noise * z + at.signal * predicted, A{1}};
  const A divisor = at.noise < static_cast<A>(kLeastNoise) ? static_cast<A>(kLeastNoise) : at.noise;
  return {predicted, (z - at.signal * predicted) / divisor, divisor};
}

/// next_log_snr and next are null in the last step.
template <class T, int kPack, bool kEach>
__global__ void __launch_bounds__(kDiffusionThreads, 3)
    ddim_update_kernel(const T* z, const T* predicted, const Wide<T>* log_snr, const Wide<T>* next_log_snr,
                       bool velocity, T* clean, T* next, int64_t rows, int width) {
  using A = Wide<T>;
  const int lane = threadIdx.x % 32;
  const int64_t row = int64_t{blockIdx.x} * kDiffusionRows + threadIdx.x / 32, first = row * width;
  if (row >= rows) return;
  Levels<A, kPack, kEach> here(log_snr, row, width), there(next ? next_log_snr : log_snr, row, width);
  for (int c = lane * kPack; c < width; c += 32 * kPack) {
    auto latent = *reinterpret_cast<const Pack<T, kPack>*>(z + first + c);
    auto part = *reinterpret_cast<const Pack<T, kPack>*>(predicted + first + c);
    here.read(c);
    if (next) there.read(c);
    CTXC_UNROLL
    for (int e = 0; e < kPack; ++e) {
      const Estimate<A> found = estimate(here[e], wide(latent.element[e]), wide(part.element[e]), velocity);
      part.element[e] = narrow<T>(found.clean);
      if (!next) continue;
      const Level<A> to = there[e];
      latent.element[e] = narrow<T>(to.signal * found.clean + to.noise * found.eps);
    }
    *reinterpret_cast<Pack<T, kPack>*>(clean + first + c) = part;
    if (next) *reinterpret_cast<Pack<T, kPack>*>(next + first + c) = latent;
  }
}

/// What the backward pass reads and writes. grad_clean may be null (0); grad_next, next_log_snr and
/// grad_next_log_snr are all null in the last step.
template <class T>
struct DdimBackward {
  const T *grad_clean, *grad_next, *z, *predicted;
  const Wide<T>*log_snr, *next_log_snr;
  bool velocity;
  T *grad_z, *grad_predicted;
  Wide<T>*grad_log_snr, *grad_next_log_snr;
  int64_t rows;
  int width;
};

template <class T, int kPack, bool kEach>
__global__ void __launch_bounds__(kDiffusionThreads, 3) ddim_update_backward_kernel(DdimBackward<T> io) {
  using A = Wide<T>;
  using Packed = Pack<T, kPack>;
  const int lane = threadIdx.x % 32;
  const int64_t row = int64_t{blockIdx.x} * kDiffusionRows + threadIdx.x / 32, first = row * io.width;
  if (row >= io.rows) return;
  const bool more = io.grad_next;
  Levels<A, kPack, kEach> here(io.log_snr, row, io.width),
      there(more ? io.next_log_snr : io.log_snr, row, io.width);
  LevelGradients<A, kPack, kEach> grad_here(io.grad_log_snr, row, io.width),
      grad_there(more ? io.grad_next_log_snr : io.grad_log_snr, row, io.width);
  for (int c = lane * kPack; c < io.width; c += 32 * kPack) {
    auto latent = *reinterpret_cast<const Packed*>(io.z + first + c);
    auto part = *reinterpret_cast<const Packed*>(io.predicted + first + c);
    Packed from_clean{}, from_next{};
    if (io.grad_clean) from_clean = *reinterpret_cast<const Packed*>(io.grad_clean + first + c);
    if (more) from_next = *reinterpret_cast<const Packed*>(io.grad_next + first + c);
    here.read(c);
    if (more) there.read(c);
    CTXC_UNROLL
    for (int e = 0; e < kPack; ++e) {
      const Level<A> at = here[e];
      const A z = wide(latent.element[e]), predicted = wide(part.element[e]);
      const Estimate<A> found = estimate(at, z, predicted, io.velocity);
      A by_clean = io.grad_clean ? wide(from_clean.element[e]) : A{0}, by_eps = 0;
      if (more) {
        const Level<A> to = there[e];
        const A g = wide(from_next.element[e]);
        grad_there.add(e, by_log_snr(to, found.clean * g, found.eps * g));
        by_clean += to.signal * g;
        by_eps = to.noise * g;
      }
      if (io.velocity) {
        grad_here.add(e,
                      by_log_snr(at, z * by_clean + predicted * by_eps, z * by_eps - predicted * by_clean));
        latent.element[e] = narrow<T>(at.signal * by_clean + at.noise * by_eps);
        part.element[e] = narrow<T>(at.signal * by_eps - at.noise * by_clean);
      } else {
        const A scaled = by_eps / found.divisor;
        const bool held = at.noise < static_cast<A>(kLeastNoise);
        grad_here.add(e, by_log_snr(at, -predicted * scaled, held ? A{0} : -found.eps * scaled));
        latent.element[e] = narrow<T>(scaled);
        part.element[e] = narrow<T>(by_clean - at.signal * scaled);
      }
    }
    *reinterpret_cast<Packed*>(io.grad_z + first + c) = latent;
    *reinterpret_cast<Packed*>(io.grad_predicted + first + c) = part;
    grad_here.write(c);
    if (more) grad_there.write(c);
  }
  grad_here.finish(lane);
  if (more) grad_there.finish(lane);
}

}  // namespace ctxc::cuda
