#include "cuda_ext/sinkhorn.cuh"

#include "cuda_ext/dispatch.cuh"

namespace ctxc::cuda {
namespace {

constexpr size_t kMostShared = 160 * 1024;  // of a block, dynamic; sm_80 has 163 KiB

size_t tile_bytes(SinkhornSize size, size_t element) {
  return element * size.rows * (size.columns | 1);
}

/// Starts `tiled` where the window fits into shared memory, else `plain`.
template <class Arguments>
int start(void (*tiled)(Arguments), void (*plain)(Arguments), size_t vectors, size_t tiles,
          const Arguments& arguments, int64_t windows, Stream stream) {
  const bool fits = vectors + tiles <= kMostShared;
  const size_t bytes = vectors + (fits ? tiles : 0);
  const auto kernel = fits ? tiled : plain;
  if (bytes > 48 * 1024) {
    const auto code =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
    if (code != cudaSuccess) return static_cast<int>(code);
  }
  return launch(kernel, dim3(static_cast<unsigned>(windows)), dim3(kSinkhornThreads), bytes,
                cuda_stream(stream), arguments);
}

}  // namespace

const char* error_text(int code) {
  return cudaGetErrorString(static_cast<cudaError_t>(code));
}

int sinkhorn_forward(Type type, const void* cost, const void* a, const void* b, void* plan, void* u, void* v,
                     SinkhornSize size, Stream stream) {
  if (size.windows * size.rows * size.columns == 0) return 0;
  return by_type(type, [&](auto element) {
    using T = decltype(element);
    using A = Wide<T>;
    const SinkhornForward<T> arguments{static_cast<const T*>(cost),
                                       static_cast<const A*>(a),
                                       static_cast<const A*>(b),
                                       static_cast<T*>(plan),
                                       static_cast<A*>(u),
                                       static_cast<A*>(v),
                                       size.rows,
                                       size.columns,
                                       size.iterations,
                                       static_cast<A>(size.epsilon)};
    return start(&sinkhorn_forward_kernel<T, true>, &sinkhorn_forward_kernel<T, false>,
                 sizeof(A) * 2 * (size.rows + size.columns), tile_bytes(size, sizeof(A)), arguments,
                 size.windows, stream);
  });
}

int sinkhorn_backward(Type type, const void* grad_plan, const void* cost, const void* a, const void* b,
                      const void* u, const void* v, void* grad_cost, void* grad_a, SinkhornSize size,
                      Stream stream) {
  if (size.windows * size.rows * size.columns == 0) return 0;
  return by_type(type, [&](auto element) {
    using T = decltype(element);
    using A = Wide<T>;
    const SinkhornBackward<T> arguments{static_cast<const T*>(grad_plan),
                                        static_cast<const T*>(cost),
                                        static_cast<const A*>(a),
                                        static_cast<const A*>(b),
                                        static_cast<const A*>(u),
                                        static_cast<const A*>(v),
                                        static_cast<A*>(grad_cost),
                                        static_cast<A*>(grad_a),
                                        size.rows,
                                        size.columns,
                                        size.iterations,
                                        static_cast<A>(size.epsilon)};
    return start(&sinkhorn_backward_kernel<T, true>, &sinkhorn_backward_kernel<T, false>,
                 sizeof(A) * 4 * (size.rows + size.columns), 2 * tile_bytes(size, sizeof(A)), arguments,
                 size.windows, stream);
  });
}

}  // namespace ctxc::cuda
