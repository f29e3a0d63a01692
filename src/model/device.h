// The device of a run: `auto`, `cpu`, `cuda` or `cuda:N`. Programs link LibTorch's CPU libraries only. When a
// GPU is asked for (or `auto` finds one), this looks at the driver first, without CUDA's runtime, then loads
// LibTorch's CUDA library and our kernels (libctxc_cuda.so): both must be there before LibTorch is asked
// about CUDA for the first time, since it remembers the answer.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "model/shapes.h"

namespace ctxc {

struct Gpu {
  std::string name;
  int major = 0, minor = 0;  ///< compute capability
  uint64_t bytes = 0;
};

/// What libcuda.so.1 tells.
struct CudaDriver {
  bool found = false;
  int version = 0;  ///< newest CUDA it runs: 13000 = 13.0
  int status = 0;   ///< of cuInit; 100 = no GPU
  std::vector<Gpu> gpus;
};
CudaDriver probe_cuda_driver();

/// What keeps GPU `index` from being used, or nothing: no driver, too old a driver, no GPU, no such GPU,
/// unsupported compute capability, no plugin; each a kUsage Error with its own hint. Does not load anything.
std::optional<Error> cuda_obstacle(const CudaDriver& driver, int index, const std::string& plugin);

/// libctxc_cuda.so: $CTXC_CUDA_PLUGIN, else beside this program (../lib, ../lib/ctxc); "" if there is none.
std::string cuda_plugin_path();

/// The device that `asked` names; a GPU is usable when this returns. `auto` is the first GPU where nothing
/// keeps it from being used, else the CPU. Error kUsage.
at::Device resolve_device(const std::string& asked);

/// Bytes that LibTorch's allocator has handed out on a GPU: now, at most since the last reset, and what the
/// GPU has in all.
struct DeviceMemory {
  uint64_t allocated = 0, peak = 0, total = 0;
};
DeviceMemory device_memory(const at::Device& device);
void reset_peak_memory(const at::Device& device);

/// A CPU tensor to the device; to a GPU through pinned memory, without waiting for the copy.
Tensor to_device(const Tensor& tensor, const at::Device& device);

/// Deterministic algorithms or not, for all devices. On GPUs also: cuBLAS with a fixed workspace (before its
/// first use), and attention by the flash or memory-efficient kernel, whose backward passes are deterministic
/// on request; cuDNN's is not and stays off.
void set_deterministic(bool deterministic);

}  // namespace ctxc
