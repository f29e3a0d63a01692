#include "model/blocks/kept_tokens.h"

#include <algorithm>

namespace ctxc {

Keep keep_named(const std::string& name) {
  if (name == "full") return Keep::kAll;
  if (name == "none") return Keep::kNothing;
  if (name == "head") return Keep::kHead;
  return name == "tail" ? Keep::kTail : Keep::kStrided;
}

int64_t kept_count(Keep keep, int64_t length, int64_t ratio) {
  if (keep == Keep::kAll) return length;
  return keep == Keep::kNothing ? 0 : (length + ratio - 1) / ratio;
}

KeptTokens kept_tokens(const Context& context, Keep keep, int64_t ratio) {
  const int64_t batch = context.batch(), step = keep == Keep::kStrided ? ratio : 1;
  int64_t widest = 0;
  for (const int64_t length : context.lengths()) widest = std::max(widest, kept_count(keep, length, ratio));
  Tensor index_BK = at::zeros({batch, widest}, at::kLong), mask_BK = at::zeros({batch, widest}, at::kBool);
  for (int64_t row = 0; row < batch; ++row) {
    const int64_t length = context.lengths()[static_cast<size_t>(row)],
                  kept = kept_count(keep, length, ratio);
    const int64_t first =
        context.offsets()[static_cast<size_t>(row)] + (keep == Keep::kTail ? length - kept : 0);
    if (kept == 0) continue;
    index_BK[row].slice(0, 0, kept) = at::arange(first, first + kept * step, step, at::kLong);
    mask_BK[row].slice(0, 0, kept) = true;
  }
  const at::Device device = context.ids_P().device();
  const Tensor embeds_PD = context.embed();
  return {embeds_PD.index_select(0, index_BK.to(device).flatten()).view({batch, widest, embeds_PD.size(1)}),
          mask_BK.to(device)};
}

}  // namespace ctxc
