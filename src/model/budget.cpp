#include "model/budget.h"

#include "core/error.h"

namespace ctxc {

void check_budget(const Memory& memory, const std::vector<int64_t>& lengths, int64_t ratio) {
  const Tensor read_B = memory.mask_BK.sum(1).to(at::kCPU, at::kLong).contiguous();
  for (size_t row = 0; row < lengths.size(); ++row) {
    const int64_t read = read_B.const_data_ptr<int64_t>()[row];
    const int64_t allowed = (lengths[row] + ratio - 1) / ratio;
    CTXC_CHECK(read <= allowed, ErrorKind::kInternal, "",
               "memory: the decoder would read more vectors than the ratio allows (found {} for {} tokens at "
               "ratio {}, expected at most {})",
               read, lengths[row], ratio, allowed);
  }
}

}  // namespace ctxc
