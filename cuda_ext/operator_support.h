// What every operator over a launcher needs.
#pragma once
#include <ATen/ATen.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <limits>

#include "cuda_ext/launchers.h"
#include "cuda_ext/operators.h"

namespace ctxc::cuda {

inline Type type_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return Type::kFloat32;
    case at::kDouble:
      return Type::kFloat64;
    case at::kBFloat16:
      return Type::kBFloat16;
    default:
      TORCH_CHECK(false, "ctxc: no kernel for ", tensor.scalar_type(),
                  " (float32, float64 and bfloat16 have one)");
  }
}

/// The type its elements are computed in.
inline at::ScalarType wide(const Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// The current stream of the tensor's device.
inline Stream stream_of(const Tensor& tensor) {
  if (tensor.is_cpu()) return nullptr;
  const c10::impl::VirtualGuardImpl device(tensor.device().type());
  return device.getStream(tensor.device()).native_handle();
}

inline int int_of(int64_t size, const char* what) {
  TORCH_CHECK(size <= std::numeric_limits<int>::max(), "ctxc: ", what, " too large (found ", size, ")");
  return static_cast<int>(size);
}

inline void check_rows(int64_t rows) {
  int_of(rows, "number of rows");
}

inline void check_started(int code, const char* kernel) {
  TORCH_CHECK(code == 0, "ctxc: the kernel ", kernel, " could not be started: ", error_text(code));
}

}  // namespace ctxc::cuda
