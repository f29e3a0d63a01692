// The choice of the device, with a driver that only the tests have (fake_driver.cpp): every reason not to use
// a GPU is told apart, and `auto` goes on without one.
#include "model/device.h"

#include <dlfcn.h>
#include <sys/wait.h>

#include <cstdio>
#include <fstream>
#include <map>
#include <set>

#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::expect_error;

/// An environment variable for the lifetime of the object.
class Setting {
 public:
  Setting(const char* name, const std::string& value) : name_(name) { setenv(name, value.c_str(), 1); }
  ~Setting() { unsetenv(name_); }

 private:
  const char* name_;
};

TEST(Device, NamesThatAreNone) {
  for (const char* name : {"tpu9", "cuda:", "cuda:x", "gpu", "", "meta", "cpu:x"})
    expect_error(ErrorKind::kUsage, "expected auto, cpu, cuda or cuda:N", [&] { resolve_device(name); });
  EXPECT_TRUE(resolve_device("cpu").is_cpu());
}

TEST(Device, TheDriverIsReadWithoutItsRuntime) {
  const Setting gpus("FAKE_CUDA_GPUS", "2"), capability("FAKE_CUDA_CAPABILITY", "86");
  const CudaDriver driver = probe_cuda_driver();
  ASSERT_TRUE(driver.found) << "LD_LIBRARY_PATH names the folder of the fake libcuda.so.1";
  EXPECT_EQ(driver.version, 13000);
  ASSERT_EQ(driver.gpus.size(), 2u);
  EXPECT_EQ(driver.gpus[1].name, "Fake GPU");
  EXPECT_EQ(driver.gpus[1].major, 8);
  EXPECT_EQ(driver.gpus[1].minor, 6);
  EXPECT_EQ(driver.gpus[1].bytes, size_t{80} << 30);
}

TEST(Device, EveryObstacleIsToldApart) {
  std::map<std::string, std::string> hints;
  const auto obstacle = [&](const std::string& asked, const std::string& part) {
    hints[part] = expect_error(ErrorKind::kUsage, part, [&] { resolve_device(asked); });
    EXPECT_NE(hints[part], "");
    EXPECT_TRUE(resolve_device("auto").is_cpu());
  };
  const Setting no_plugin("CTXC_CUDA_PLUGIN", "/nowhere/libctxc_cuda.so");
  obstacle("cuda", "no CUDA plugin");
  {
    const Setting old("FAKE_CUDA_VERSION", "12040");
    obstacle("cuda", "too old (found one for CUDA 12.4, expected 13.0 or newer)");
  }
  {
    const Setting none("FAKE_CUDA_INIT", "100");
    obstacle("cuda", "finds no GPU");
  }
  {
    const Setting broken("FAKE_CUDA_INIT", "999");
    obstacle("cuda", "does not start (cuInit gives 999)");
  }
  {
    const Setting small("FAKE_CUDA_CAPABILITY", "75");
    obstacle("cuda:0", "Fake GPU has compute capability 7.5 (expected 8.0 or newer)");
  }
  expect_error(ErrorKind::kUsage, "found cuda:3, expected cuda:0 to cuda:0",
               [] { resolve_device("cuda:3"); });
  const std::optional<Error> absent = cuda_obstacle({}, 0, "plugin");
  ASSERT_TRUE(absent);
  EXPECT_NE(std::string(absent->what()).find("there is no NVIDIA driver"), std::string::npos);
  hints["driver"] = absent->hint();
  std::set<std::string> distinct;
  for (const auto& [part, hint] : hints) distinct.insert(hint);
  EXPECT_EQ(distinct.size(), hints.size()) << "two obstacles share a hint";
}

TEST(Device, AFileThatIsNoPluginIsReported) {
  if (dlopen("libtorch_cuda.so", RTLD_NOW)) GTEST_SKIP() << "this LibTorch has its CUDA library";
  const testing::TempDir dir;
  std::ofstream(dir / "libctxc_cuda.so") << "no library";
  const Setting plugin("CTXC_CUDA_PLUGIN", dir / "libctxc_cuda.so");
  const std::string hint =
      expect_error(ErrorKind::kUsage, "libtorch_cuda.so cannot be loaded", [] { resolve_device("cuda"); });
  EXPECT_NE(hint.find("setup.sh --cuda"), std::string::npos);
}

TEST(Device, ProgramsExitWithUsage) {
  const Setting old("FAKE_CUDA_VERSION", "12000");
  const testing::TempDir dir;
  const std::string command =
      fmt::format("cd {} && {} configs/comprexit_tiny.yaml run.device=cuda run.dir={} 2>&1",
                  testing::root().string(), testing::program("ctxc-train"), (dir / "run").string());
  FILE* pipe = popen(command.c_str(), "r");
  ASSERT_TRUE(pipe);
  std::string text;
  char buffer[512];
  while (const size_t count = fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, count);
  EXPECT_EQ(WEXITSTATUS(pclose(pipe)), 2) << text;
  EXPECT_NE(text.find("found one for CUDA 12.0"), std::string::npos) << text;
  EXPECT_NE(text.find("hint: update the driver"), std::string::npos) << text;
}

TEST(Device, TheCpuHasNoDeviceMemory) {
  EXPECT_EQ(device_memory(at::kCPU).peak, 0u);
  reset_peak_memory(at::kCPU);
  const Tensor tensor = at::ones({3});
  EXPECT_TRUE(to_device(tensor, at::kCPU).is_same(tensor));
}

}  // namespace
}  // namespace ctxc
