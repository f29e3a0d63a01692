#include "model/kd_objective.h"

#include <algorithm>

#include "core/error.h"
#include "model/loss.h"

namespace ctxc {
namespace {

/// The whole context as slots, behind the head of `memory`.
Memory full_memory(const Backbone& backbone, const Memory& memory, const Batch& batch) {
  const int64_t rows = static_cast<int64_t>(batch.examples.size());
  int64_t columns = 0;
  for (const Example& example : batch.examples)
    columns = std::max(columns, static_cast<int64_t>(example.context.size()));
  Tensor ids_BN = at::zeros({rows, columns}, at::kLong);
  Memory full;
  full.mask_BK = at::zeros({rows, columns}, at::kBool);
  for (int64_t row = 0; row < rows; ++row) {
    const Tokens& context = batch.examples[static_cast<size_t>(row)].context;
    const int64_t length = static_cast<int64_t>(context.size());
    if (length == 0) continue;
    ids_BN[row].slice(0, 0, length) =
        at::tensor(std::vector<int64_t>(context.begin(), context.end()), at::kLong);
    full.mask_BK[row].slice(0, 0, length) = true;
  }
  full.mask_BK = full.mask_BK.to(backbone.device());
  full.slots_BKD = backbone.embed(ids_BN.to(backbone.device()));
  full.head_ids_BP = memory.head_ids_BP;
  number_densely(full, memory.head_ids_BP.size(1));
  return full;
}

class Distillation : public Objective {
 public:
  Terms operator()(BatchReading& student, const StepKey&) override {
    const Backbone& backbone = student.backbone();
    CTXC_CHECK(!backbone.trainable(), ErrorKind::kUsage,
               "take kd out of section objective, or freeze the base",
               "objective kd: the teacher is the frozen base (found backbone.train: true)");
    student.target_M("kd");
    Tensor teacher_MD;
    {
      const at::NoGradGuard no_grad;
      const Memory full = full_memory(backbone, student.memory(), student.batch());
      teacher_MD = BatchReading(backbone, full, student.batch()).hidden_MD();
    }
    const Tensor head_VD = backbone.head_VD();
    return {{"kd", chunked_kl_divergence(student.hidden_MD(), head_VD, teacher_MD, head_VD)}};
  }
};

}  // namespace

std::unique_ptr<Objective> make_distillation() {
  return std::make_unique<Distillation>();
}

}  // namespace ctxc
