// Losses over the vocabulary for a chunk of rows of logits that stand in memory once: the row's log-sum-exp
// in one pass (running maximum m and sum s = sum exp(l - m), rescaled when m grows), then the gradient over
// the logits, in place (src/model/kernels/vocabulary_loss.h). A block a row; a row is read twice and written
// once, in the type of the matrix product, and no float32 copy of it exists.
#pragma once
#include "cuda_ext/launchers.h"
#include "cuda_ext/portable.cuh"

namespace ctxc::cuda {

constexpr int kVocabularyThreads = 512;

/// m and s of a part of a row.
template <class A>
struct RunningSum {
  A top = -INFINITY, sum = 0;
  /// Takes in one more logit; returns exp(l - m).
  __device__ __forceinline__ void add(A logit) {
    if (logit > top) {
      sum = sum * exp(top - logit) + 1;
      top = logit;
    } else if (top != -INFINITY || logit != -INFINITY) {  // NaN comes here and stays
      sum += exp(logit - top);
    }
  }
  __device__ __forceinline__ void merge(A other_top, A other_sum) {
    const A larger = fmax(top, other_top);
    if (larger == -INFINITY) {
      sum += other_sum;  // 0, or NaN
      return;
    }
    sum = sum * exp(top - larger) + other_sum * exp(other_top - larger);
    top = larger;
  }
};

/// The whole row's from every thread's, for every thread; `scratch` holds 64 elements of shared memory.
template <class A>
__device__ __forceinline__ RunningSum<A> block_merge(RunningSum<A> mine, A* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  CTXC_UNROLL
  for (int offset = 16; offset > 0; offset >>= 1) {
    const A top = __shfl_xor_sync(kFullWarp, mine.top, offset),
            sum = __shfl_xor_sync(kFullWarp, mine.sum, offset);
    mine.merge(top, sum);
  }
  if (lane == 0) {
    scratch[warp] = mine.top;
    scratch[32 + warp] = mine.sum;
  }
  __syncthreads();
  RunningSum<A> all;
  for (int w = 0; w < warps; ++w) all.merge(scratch[w], scratch[32 + w]);
  __syncthreads();
  return all;
}

/// Calls f(first column, elements) for every pack of the row that is this thread's.
template <int kPack, class F>
__device__ __forceinline__ void for_packs(int64_t columns, F f) {
  for (int64_t x = static_cast<int64_t>(threadIdx.x) * kPack; x < columns;
       x += int64_t{kVocabularyThreads} * kPack)
    f(x);
}

template <class T, int kPack>
__global__ void __launch_bounds__(kVocabularyThreads, 2)
    cross_entropy_rows_kernel(T* logits, const int64_t* target, Wide<T>* loss, Wide<T>* z, int64_t vocabulary,
                              bool gradient) {
  using A = Wide<T>;
  CTXC_SHARED(A, scratch, 64);
  const int64_t row = blockIdx.x, wanted = target[row];
  T* line = logits + row * vocabulary;
  RunningSum<A> mine;
  for_packs<kPack>(vocabulary, [&](int64_t x) {
    const auto part = *reinterpret_cast<const Pack<T, kPack>*>(line + x);
    CTXC_UNROLL
    for (int e = 0; e < kPack; ++e) mine.add(wide(part.element[e]));
  });
  const RunningSum<A> all = block_merge(mine, scratch);
  if (threadIdx.x == 0) {
    const bool inside = wanted >= 0 && wanted < vocabulary;
    loss[row] = inside ? all.top + log(all.sum) - wide(line[wanted]) : static_cast<A>(NAN);
    z[row] = all.sum;
  }
  if (!gradient) return;
  __syncthreads();  // the target's logit was read
  for_packs<kPack>(vocabulary, [&](int64_t x) {
    auto& part = *reinterpret_cast<Pack<T, kPack>*>(line + x);
    Pack<T, kPack> out = part;
    CTXC_UNROLL
    for (int e = 0; e < kPack; ++e)
      out.element[e] = narrow<T>(exp(wide(out.element[e]) - all.top) - (x + e == wanted ? all.sum : A{0}));
    part = out;
  });
}

/// KL(teacher || student) = sum p_T (l_T - l_S) - log-sum-exp_T + log-sum-exp_S of logits over tau, times
/// tau^2; kReverse: KL(student || teacher).
template <class T, int kPack, bool kReverse>
__global__ void __launch_bounds__(kVocabularyThreads, 2)
    kl_rows_kernel(T* student, const T* teacher, Wide<T> tau, Wide<T>* loss, int64_t vocabulary,
                   bool gradient) {
  using A = Wide<T>;
  const A scale = A{1} / tau;
  CTXC_SHARED(A, scratch, 64);
  T* line = student + blockIdx.x * vocabulary;
  const T* guide = teacher + blockIdx.x * vocabulary;
  RunningSum<A> mine, guided;
  RunningSum<A>& first = kReverse ? mine : guided;  // of the distribution that the mean is over
  A gap = 0;  // sum exp(l - top) (l - l') over the first's logits l, rescaled with its sum
  for_packs<kPack>(vocabulary, [&](int64_t x) {
    const auto part = *reinterpret_cast<const Pack<T, kPack>*>(line + x);
    const auto lead = *reinterpret_cast<const Pack<T, kPack>*>(guide + x);
    CTXC_UNROLL
    for (int e = 0; e < kPack; ++e) {
      const A own = wide(part.element[e]) * scale, other = wide(lead.element[e]) * scale, before = first.top,
              ahead = kReverse ? own : other, behind = kReverse ? other : own;
      mine.add(own);
      guided.add(other);
      if (ahead > before) gap *= exp(before - ahead);
      gap += exp(ahead - first.top) * (ahead - behind);
    }
  });
  const RunningSum<A> s = block_merge(mine, scratch);
  const RunningSum<A> t = block_merge(guided, scratch);
  // A thread without columns has top -inf and gap 0.
  gap = block_sum(first.top == -INFINITY ? A{0} : gap * exp(first.top - (kReverse ? s : t).top), scratch);
  const A student_log = s.top + log(s.sum), teacher_log = t.top + log(t.sum);
  const A divergence =
      kReverse ? gap / s.sum - student_log + teacher_log : gap / t.sum - teacher_log + student_log;
  if (threadIdx.x == 0) loss[blockIdx.x] = divergence * tau * tau;
  if (!gradient) return;
  for_packs<kPack>(vocabulary, [&](int64_t x) {
    auto& part = *reinterpret_cast<Pack<T, kPack>*>(line + x);
    const auto lead = *reinterpret_cast<const Pack<T, kPack>*>(guide + x);
    Pack<T, kPack> out = part;
    CTXC_UNROLL
    for (int e = 0; e < kPack; ++e) {
      const A log_q = wide(out.element[e]) * scale - student_log,
              log_p = wide(lead.element[e]) * scale - teacher_log;
      out.element[e] =
          narrow<T>(tau * (kReverse ? exp(log_q) * (log_q - log_p - divergence) : exp(log_q) - exp(log_p)));
    }
    part = out;
  });
}

}  // namespace ctxc::cuda
