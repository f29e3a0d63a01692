#include "model/device.h"

#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Device.h>
#include <dlfcn.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>

#include "core/log.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

constexpr int kOldestDriver = 13000;  // what LibTorch 2.11 is built for
constexpr int kSmallestMajor = 8;     // sm_80 code; sm_90 as PTX for what is newer
constexpr int kNoGpu = 100;           // CUDA_ERROR_NO_DEVICE
constexpr int kCapabilityMajor = 75, kCapabilityMinor = 76;

/// Calls a function of the driver; a driver without it gives `missing`.
template <class... Arguments>
int call(void* library, const char* name, Arguments... arguments) {
  constexpr int kMissing = 500;  // CUDA_ERROR_NOT_FOUND
  auto* function = reinterpret_cast<int (*)(Arguments...)>(dlsym(library, name));
  return function ? function(arguments...) : kMissing;
}

Gpu describe_gpu(void* library, int index) {
  Gpu gpu;
  int handle = 0;
  if (call(library, "cuDeviceGet", &handle, index) != 0) return gpu;
  std::array<char, 256> name{};
  call(library, "cuDeviceGetName", name.data(), static_cast<int>(name.size()) - 1, handle);
  gpu.name = name.data();
  call(library, "cuDeviceGetAttribute", &gpu.major, kCapabilityMajor, handle);
  call(library, "cuDeviceGetAttribute", &gpu.minor, kCapabilityMinor, handle);
  size_t bytes = 0;
  call(library, "cuDeviceTotalMem_v2", &bytes, handle);
  gpu.bytes = bytes;
  return gpu;
}

std::string version_text(int version) {
  return fmt::format("{}.{}", version / 1000, version % 1000 / 10);
}

Error usage(const std::string& message, const std::string& hint) {
  return Error(ErrorKind::kUsage, "run.device: " + message, hint);
}

/// Loads LibTorch's CUDA library, then our kernels. Error kUsage.
void load_cuda(const std::string& plugin) {
  static bool loaded = false;
  if (loaded) return;
  for (const std::string& library : {std::string("libtorch_cuda.so"), plugin})
    if (!dlopen(library.c_str(), RTLD_NOW | RTLD_GLOBAL))
      throw usage(fmt::format("{} cannot be loaded: {}", fs::path(library).filename().string(), dlerror()),
                  "LibTorch's CUDA libraries are needed beside its CPU ones: scripts/setup.sh --cuda");
  CTXC_CHECK(at::hasCUDA(), ErrorKind::kUsage,
             "see nvidia-smi, and whether LD_LIBRARY_PATH holds another libcuda.so.1",
             "run.device: LibTorch's CUDA library finds no GPU, though the driver lists one");
  loaded = true;
}

}  // namespace

CudaDriver probe_cuda_driver() {
  CudaDriver driver;
  void* library = dlopen("libcuda.so.1", RTLD_NOW);
  if (!library) return driver;
  driver.found = true;
  call(library, "cuDriverGetVersion", &driver.version);
  driver.status = call(library, "cuInit", 0u);
  int count = 0;
  if (driver.status == 0) call(library, "cuDeviceGetCount", &count);
  for (int index = 0; index < count; ++index) driver.gpus.push_back(describe_gpu(library, index));
  return driver;
}

std::optional<Error> cuda_obstacle(const CudaDriver& driver, int index, const std::string& plugin) {
  if (!driver.found)
    return usage("there is no NVIDIA driver (libcuda.so.1 cannot be loaded)",
                 "install the driver, or set run.device to cpu or auto");
  if (driver.version < kOldestDriver)
    return usage(fmt::format("the NVIDIA driver is too old (found one for CUDA {}, expected {} or newer)",
                             version_text(driver.version), version_text(kOldestDriver)),
                 "update the driver to version 580 or newer");
  if (driver.status == kNoGpu || (driver.status == 0 && driver.gpus.empty()))
    return usage("the NVIDIA driver finds no GPU",
                 "see nvidia-smi, and whether CUDA_VISIBLE_DEVICES hides it");
  if (driver.status != 0)
    return usage(fmt::format("the NVIDIA driver does not start (cuInit gives {})", driver.status),
                 "see nvidia-smi; after an update of the driver the machine may need a restart");
  const int count = static_cast<int>(driver.gpus.size());
  if (index < 0 || index >= count)
    return usage(fmt::format("no such GPU (found cuda:{}, expected cuda:0 to cuda:{})", index, count - 1),
                 "see nvidia-smi, and whether CUDA_VISIBLE_DEVICES hides it");
  const Gpu& gpu = driver.gpus[static_cast<size_t>(index)];
  if (gpu.major < kSmallestMajor)
    return usage(fmt::format("{} has compute capability {}.{} (expected {}.0 or newer)", gpu.name, gpu.major,
                             gpu.minor, kSmallestMajor),
                 "use an A100, H100 or newer, or set run.device=cpu");
  if (plugin.empty())
    return usage("this build has no CUDA plugin (libctxc_cuda.so is not beside the program)",
                 "build where nvcc is: cmake --preset cuda && cmake --build --preset cuda");
  return std::nullopt;
}

std::string cuda_plugin_path() {
  if (const char* path = std::getenv("CTXC_CUDA_PLUGIN")) return fs::exists(path) ? path : "";
  std::error_code ignored;
  const fs::path folder = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  for (const char* place : {"../lib/libctxc_cuda.so", "../lib/ctxc/libctxc_cuda.so"}) {
    const fs::path path = (folder / place).lexically_normal();
    if (fs::exists(path, ignored)) return path;
  }
  return "";
}

at::Device resolve_device(const std::string& asked) {
  if (asked == "auto") {
    const CudaDriver driver = probe_cuda_driver();
    const std::optional<Error> obstacle = cuda_obstacle(driver, 0, cuda_plugin_path());
    if (obstacle) {
      if (!driver.gpus.empty())
        log_warning(fmt::format("{}; computing on the CPU (hint: {})", obstacle->what(), obstacle->hint()));
      return at::kCPU;
    }
    load_cuda(cuda_plugin_path());
    return {at::kCUDA, 0};
  }
  std::optional<at::Device> device;
  try {
    device = at::Device(asked);
  } catch (const std::exception&) {
    // reported below
  }
  CTXC_CHECK(device && (device->is_cpu() || device->is_cuda()), ErrorKind::kUsage, "",
             "run.device: unknown device (found '{}', expected auto, cpu, cuda or cuda:N)", asked);
  if (device->is_cpu()) return at::kCPU;
  const int index = device->has_index() ? device->index() : 0;
  const std::string plugin = cuda_plugin_path();
  if (const std::optional<Error> obstacle = cuda_obstacle(probe_cuda_driver(), index, plugin))
    throw *obstacle;
  load_cuda(plugin);
  return {at::kCUDA, static_cast<at::DeviceIndex>(index)};
}

DeviceMemory device_memory(const at::Device& device) {
  DeviceMemory memory;
  if (!device.is_cuda()) return memory;
  auto* allocator = at::getDeviceAllocator(at::kCUDA);
  const auto stats = allocator->getDeviceStats(device.index());
  constexpr size_t kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  memory.allocated = static_cast<uint64_t>(stats.allocated_bytes[kAll].current);
  memory.peak = static_cast<uint64_t>(stats.allocated_bytes[kAll].peak);
  memory.total = allocator->getMemoryInfo(device.index()).second;
  return memory;
}

void reset_peak_memory(const at::Device& device) {
  if (device.is_cuda()) at::getDeviceAllocator(at::kCUDA)->resetPeakStats(device.index());
}

Tensor to_device(const Tensor& tensor, const at::Device& device) {
  if (!device.is_cuda() || !tensor.is_cpu() || tensor.numel() == 0) return tensor.to(device);
  return tensor.pin_memory().to(device, /*non_blocking=*/true);
}

void set_deterministic(bool deterministic) {
  auto& context = at::globalContext();
  context.setDeterministicAlgorithms(deterministic, /*warn_only=*/false);
  context.setDeterministicFillUninitializedMemory(false);  // only costs time
  if (deterministic) setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  context.setBenchmarkCuDNN(false);
  context.setSDPUseFlash(true);
  context.setSDPUseMemEfficient(true);
  context.setSDPUseMath(true);
  context.setSDPUseCuDNN(!deterministic);
}

}  // namespace ctxc
