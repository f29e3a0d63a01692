#include "model/blocks/virtual_tokens.h"

#include "core/error.h"
#include "core/random.h"

namespace ctxc {

Tensor virtual_token_ids(int64_t count, const std::vector<int64_t>& init_ids, int64_t vocabulary) {
  std::vector<int64_t> ids(static_cast<size_t>(count));
  CounterRng rows(0, "prompt_tuning.init");
  for (size_t i = 0; i < ids.size(); ++i) {
    if (init_ids.empty()) {
      ids[i] = static_cast<int64_t>(rows.below(static_cast<uint64_t>(vocabulary)));
      continue;
    }
    ids[i] = init_ids[i % init_ids.size()];
    CTXC_CHECK(
        ids[i] >= 0 && ids[i] < vocabulary, ErrorKind::kUsage, "make the ids with ctxc-inspect tokenize",
        "compressor.init_ids: token id out of range (found {}, expected 0..{})", ids[i], vocabulary - 1);
  }
  return at::tensor(ids, at::kLong);
}

Tensor virtual_tokens(const Tensor& ids_K, const Tensor& delta_KD, const Backbone& backbone) {
  const Tensor rows_KD = backbone.embed(ids_K.to(delta_KD.device()));
  return rows_KD + delta_KD.to(rows_KD.scalar_type());
}

}  // namespace ctxc
