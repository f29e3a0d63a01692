#include "cuda_ext/norm_rope.cuh"

#include "cuda_ext/dispatch.cuh"

namespace ctxc::cuda {
namespace {

/// Calls f with a value of x's type and one of the weight's: the same type or the wide one.
template <class F>
int by_types(Type type, Type weight_type, F&& f) {
  return by_type(type, [&](auto x) {
    if (weight_type == type) return f(x, x);
    using A = Wide<decltype(x)>;
    if constexpr (sizeof(A) != sizeof(x))
      if (weight_type == Type::kFloat32) return f(x, A{});
    return 1;  // cudaErrorInvalidValue
  });
}

}  // namespace

int rms_norm_forward(Type type, Type weight_type, const void* x, const void* weight, double eps, void* y,
                     void* inverse, int64_t rows, int width, Stream stream) {
  if (rows == 0 || width == 0) return 0;
  return by_types(type, weight_type, [&](auto element, auto weight_element) {
    using T = decltype(element);
    using W = decltype(weight_element);
    const auto kernel = can_pack<T>(width, x, weight, y) ? &rms_norm_forward_kernel<T, W, kPackOf<T>>
                                                         : &rms_norm_forward_kernel<T, W, 1>;
    return launch(kernel, dim3(static_cast<unsigned>(rows)), dim3(kNormThreads), 0, cuda_stream(stream),
                  static_cast<const T*>(x), static_cast<const W*>(weight), static_cast<Wide<T>>(eps),
                  static_cast<T*>(y), static_cast<Wide<T>*>(inverse), width);
  });
}

int rms_norm_backward(Type type, Type weight_type, const void* grad_y, const void* x, const void* weight,
                      const void* inverse, void* grad_x, int64_t rows, int width, Stream stream) {
  if (rows == 0 || width == 0) return 0;
  return by_types(type, weight_type, [&](auto element, auto weight_element) {
    using T = decltype(element);
    using W = decltype(weight_element);
    const auto kernel = can_pack<T>(width, grad_y, x, weight, grad_x)
                            ? &rms_norm_backward_kernel<T, W, kPackOf<T>>
                            : &rms_norm_backward_kernel<T, W, 1>;
    return launch(kernel, dim3(static_cast<unsigned>(rows)), dim3(kNormThreads), 0, cuda_stream(stream),
                  static_cast<const T*>(grad_y), static_cast<const T*>(x), static_cast<const W*>(weight),
                  static_cast<const Wide<T>*>(inverse), static_cast<T*>(grad_x), width);
  });
}

int rope_qk(Type type, const void* q, const void* k, const void* cos, const void* sin, void* q_out,
            void* k_out, int64_t tokens, int q_heads, int k_heads, int head_width, int direction,
            Stream stream) {
  const int half = head_width / 2;
  if (tokens == 0 || half == 0 || q_heads + k_heads == 0) return 0;
  return by_type(type, [&](auto element) {
    using T = decltype(element);
    const auto kernel = can_pack<T>(half, q, k, cos, sin, q_out, k_out) ? &rope_qk_kernel<T, kPackOf<T>>
                                                                        : &rope_qk_kernel<T, 1>;
    return launch(kernel, dim3(static_cast<unsigned>(tokens)), dim3(kRopeThreads), 0, cuda_stream(stream),
                  static_cast<const T*>(q), static_cast<const T*>(k), static_cast<const T*>(cos),
                  static_cast<const T*>(sin), static_cast<T*>(q_out), static_cast<T*>(k_out), q_heads,
                  k_heads, half, static_cast<Wide<T>>(direction));
  });
}

}  // namespace ctxc::cuda
