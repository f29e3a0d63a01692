#include "cuda_ext/diffusion_step.cuh"

#include "cuda_ext/dispatch.cuh"

namespace ctxc::cuda {
namespace {

/// One kernel in its four forms: packs or single elements, a level for the row or one each.
template <class Kernel>
struct Forms {
  Kernel row_packs, row_single, each_packs, each_single;
};

template <class Kernel, class... Arguments>
int start(const Forms<Kernel>& forms, LatentSize size, bool packs, Stream stream,
          const Arguments&... arguments) {
  const Kernel kernel = size.each ? (packs ? forms.each_packs : forms.each_single)
                                  : (packs ? forms.row_packs : forms.row_single);
  const int64_t blocks = (size.rows + kDiffusionRows - 1) / kDiffusionRows;
  return launch(kernel, dim3(static_cast<unsigned>(blocks)), dim3(kDiffusionThreads), 0, cuda_stream(stream),
                arguments...);
}

/// Only levels of single elements are read in packs.
const void* in_packs(const void* levels, LatentSize size) {
  return size.each ? levels : nullptr;
}

bool nothing(LatentSize size) {
  return size.rows == 0 || size.width == 0;
}

}  // namespace

int diffuse(Type type, const void* clean, const void* log_snr, const void* eps, void* z, LatentSize size,
            Stream stream) {
  if (nothing(size)) return 0;
  return by_type(type, [&](auto element) {
    using T = decltype(element);
    constexpr int kPack = kPackOf<T>;
    const Forms<decltype(&diffuse_kernel<T, 1, false>)> forms{
        &diffuse_kernel<T, kPack, false>, &diffuse_kernel<T, 1, false>, &diffuse_kernel<T, kPack, true>,
        &diffuse_kernel<T, 1, true>};
    return start(forms, size, can_pack<T>(size.width, clean, eps, z, in_packs(log_snr, size)), stream,
                 static_cast<const T*>(clean), static_cast<const Wide<T>*>(log_snr),
                 static_cast<const T*>(eps), static_cast<T*>(z), size.rows, size.width);
  });
}

int diffuse_backward(Type type, const void* grad_z, const void* clean, const void* log_snr, const void* eps,
                     void* grad_clean, void* grad_log_snr, LatentSize size, Stream stream) {
  if (nothing(size)) return 0;
  return by_type(type, [&](auto element) {
    using T = decltype(element);
    constexpr int kPack = kPackOf<T>;
    const Forms<decltype(&diffuse_backward_kernel<T, 1, false>)> forms{
        &diffuse_backward_kernel<T, kPack, false>, &diffuse_backward_kernel<T, 1, false>,
        &diffuse_backward_kernel<T, kPack, true>, &diffuse_backward_kernel<T, 1, true>};
    const bool packs = can_pack<T>(size.width, grad_z, clean, eps, grad_clean, in_packs(log_snr, size),
                                   in_packs(grad_log_snr, size));
    return start(forms, size, packs, stream, static_cast<const T*>(grad_z), static_cast<const T*>(clean),
                 static_cast<const Wide<T>*>(log_snr), static_cast<const T*>(eps),
                 static_cast<T*>(grad_clean), static_cast<Wide<T>*>(grad_log_snr), size.rows, size.width);
  });
}

int ddim_update(Type type, const void* z, const void* predicted, const void* log_snr,
                const void* next_log_snr, bool velocity, void* clean, void* next, LatentSize size,
                Stream stream) {
  if (nothing(size)) return 0;
  return by_type(type, [&](auto element) {
    using T = decltype(element);
    constexpr int kPack = kPackOf<T>;
    const Forms<decltype(&ddim_update_kernel<T, 1, false>)> forms{
        &ddim_update_kernel<T, kPack, false>, &ddim_update_kernel<T, 1, false>,
        &ddim_update_kernel<T, kPack, true>, &ddim_update_kernel<T, 1, true>};
    const bool packs = can_pack<T>(size.width, z, predicted, clean, next, in_packs(log_snr, size),
                                   in_packs(next_log_snr, size));
    return start(forms, size, packs, stream, static_cast<const T*>(z), static_cast<const T*>(predicted),
                 static_cast<const Wide<T>*>(log_snr), static_cast<const Wide<T>*>(next_log_snr), velocity,
                 static_cast<T*>(clean), static_cast<T*>(next), size.rows, size.width);
  });
}

int ddim_update_backward(Type type, const DdimGradients& io, bool velocity, LatentSize size, Stream stream) {
  if (nothing(size)) return 0;
  return by_type(type, [&](auto element) {
    using T = decltype(element);
    using A = Wide<T>;
    constexpr int kPack = kPackOf<T>;
    const Forms<decltype(&ddim_update_backward_kernel<T, 1, false>)> forms{
        &ddim_update_backward_kernel<T, kPack, false>, &ddim_update_backward_kernel<T, 1, false>,
        &ddim_update_backward_kernel<T, kPack, true>, &ddim_update_backward_kernel<T, 1, true>};
    const bool packs =
        can_pack<T>(size.width, io.grad_clean, io.grad_next, io.z, io.predicted, io.grad_z, io.grad_predicted,
                    in_packs(io.log_snr, size), in_packs(io.next_log_snr, size),
                    in_packs(io.grad_log_snr, size), in_packs(io.grad_next_log_snr, size));
    return start(forms, size, packs, stream,
                 DdimBackward<T>{static_cast<const T*>(io.grad_clean), static_cast<const T*>(io.grad_next),
                                 static_cast<const T*>(io.z), static_cast<const T*>(io.predicted),
                                 static_cast<const A*>(io.log_snr), static_cast<const A*>(io.next_log_snr),
                                 velocity, static_cast<T*>(io.grad_z), static_cast<T*>(io.grad_predicted),
                                 static_cast<A*>(io.grad_log_snr), static_cast<A*>(io.grad_next_log_snr),
                                 size.rows, size.width});
  });
}

}  // namespace ctxc::cuda
