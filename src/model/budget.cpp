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

void check_window(int64_t tokens, int64_t beside, const LlamaConfig& backbone) {
  CTXC_CHECK(
      tokens + beside <= backbone.max_position, ErrorKind::kInput,
      "lower data.context_tokens (ctxc-run: --max-tokens), or use the method progressive, which reads a "
      "text slice by slice",
      "context: longer than the window of the base, which reads it in one pass (found {} tokens{}, "
      "expected at most {})",
      tokens, beside > 0 ? fmt::format(" and {} of the method", beside) : "", backbone.max_position);
}

}  // namespace ctxc
