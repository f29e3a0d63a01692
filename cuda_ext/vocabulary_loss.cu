#include "cuda_ext/vocabulary_loss.cuh"

#include "cuda_ext/dispatch.cuh"

namespace ctxc::cuda {

int cross_entropy_rows(Type type, void* logits, const int64_t* target, void* loss, void* z, int64_t rows,
                       int64_t vocabulary, bool gradient, Stream stream) {
  if (rows == 0 || vocabulary == 0) return 0;
  return by_type(type, [&](auto element) {
    using T = decltype(element);
    const auto kernel = can_pack<T>(vocabulary, logits) ? &cross_entropy_rows_kernel<T, kPackOf<T>>
                                                        : &cross_entropy_rows_kernel<T, 1>;
    return launch(kernel, dim3(static_cast<unsigned>(rows)), dim3(kVocabularyThreads), 0, cuda_stream(stream),
                  static_cast<T*>(logits), target, static_cast<Wide<T>*>(loss), static_cast<Wide<T>*>(z),
                  vocabulary, gradient);
  });
}

int kl_rows(Type type, void* student, const void* teacher, double tau, bool reverse, void* loss, int64_t rows,
            int64_t vocabulary, bool gradient, Stream stream) {
  if (rows == 0 || vocabulary == 0) return 0;
  return by_type(type, [&](auto element) {
    using T = decltype(element);
    const bool packs = can_pack<T>(vocabulary, student, teacher);
    const auto forward = packs ? &kl_rows_kernel<T, kPackOf<T>, false> : &kl_rows_kernel<T, 1, false>,
               reversed = packs ? &kl_rows_kernel<T, kPackOf<T>, true> : &kl_rows_kernel<T, 1, true>;
    const auto kernel = reverse ? reversed : forward;
    return launch(kernel, dim3(static_cast<unsigned>(rows)), dim3(kVocabularyThreads), 0, cuda_stream(stream),
                  static_cast<T*>(student), static_cast<const T*>(teacher), static_cast<Wide<T>>(tau),
                  static_cast<Wide<T>*>(loss), vocabulary, gradient);
  });
}

}  // namespace ctxc::cuda
