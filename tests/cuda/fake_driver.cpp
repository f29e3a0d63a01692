// A libcuda.so.1 that is no driver: what it reports stands in the environment. For tests of what is said to
// people whose machine has no usable GPU.
#include <cstdlib>
#include <cstring>

namespace {
int number(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}
}  // namespace

extern "C" {
int cuDriverGetVersion(int* version) {
  *version = number("FAKE_CUDA_VERSION", 13000);
  return 0;
}
int cuInit(unsigned) {
  return number("FAKE_CUDA_INIT", 0);
}
int cuDeviceGetCount(int* count) {
  *count = number("FAKE_CUDA_GPUS", 1);
  return 0;
}
int cuDeviceGet(int* handle, int index) {
  *handle = index;
  return 0;
}
int cuDeviceGetName(char* name, int length, int) {
  std::strncpy(name, "Fake GPU", static_cast<size_t>(length));
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int) {
  const int capability = number("FAKE_CUDA_CAPABILITY", 90);
  *value = attribute == 75 ? capability / 10 : capability % 10;
  return 0;
}
int cuDeviceTotalMem_v2(size_t* bytes, int) {
  *bytes = size_t{80} << 30;
  return 0;
}
}
