// bf16 autocast for the lifetime of an object: only where the device is a GPU and the run asks for bfloat16.
// On the CPU the frozen base alone may multiply in bfloat16 (Products in model/layers.h).
#pragma once
#include <ATen/autocast_mode.h>

#include <string>

namespace ctxc {

class Autocast {
 public:
  Autocast(const at::Device& device, const std::string& dtype)
      : active_(device.is_cuda() && dtype == "bfloat16"),
        before_(at::autocast::is_autocast_enabled(at::kCUDA)) {
    if (!active_) return;
    at::autocast::set_autocast_dtype(at::kCUDA, at::kBFloat16);
    at::autocast::set_autocast_enabled(at::kCUDA, true);
  }
  ~Autocast() {
    if (!active_) return;
    at::autocast::set_autocast_enabled(at::kCUDA, before_);
    at::autocast::clear_cache();
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  bool active_, before_;
};

}  // namespace ctxc
