// What every launcher needs: from a Type to a template argument, whether 16-byte packs may be used, how many
// multiprocessors there are.
#pragma once
#include "cuda_ext/launchers.h"
#include "cuda_ext/portable.cuh"

namespace ctxc::cuda {

/// Elements of T in 16 bytes.
template <class T>
constexpr int kPackOf = 16 / static_cast<int>(sizeof(T));

/// Calls f with a value of the element type.
template <class F>
int by_type(Type type, F&& f) {
  switch (type) {
    case Type::kFloat32:
      return f(float{});
    case Type::kFloat64:
      return f(double{});
    case Type::kBFloat16:
      return f(bfloat16{});
  }
  return 1;  // cudaErrorInvalidValue
}

/// True where rows of `width` elements of T (and of its wide type) can be read in packs from these addresses.
template <class T, class... Pointers>
bool can_pack(int64_t width, Pointers... pointers) {
  const size_t alignment = sizeof(Pack<Wide<T>, kPackOf<T>>);
  return width % kPackOf<T> == 0 && ((reinterpret_cast<uintptr_t>(pointers) % alignment == 0) && ...);
}

#ifdef __CUDACC__
inline int multiprocessors() {
  int device = 0, count = 1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
}
inline cudaStream_t cuda_stream(Stream stream) {
  return static_cast<cudaStream_t>(stream);
}
#else
inline int multiprocessors() {
  return 3;
}  // few: blocks take several rows each
inline cudaStream_t cuda_stream(Stream stream) {
  return stream;
}
#endif

}  // namespace ctxc::cuda
