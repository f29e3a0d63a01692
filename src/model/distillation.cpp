#include "model/distillation.h"

#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "core/error.h"

namespace ctxc {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

/// The loss and its gradient (p_student - p_teacher) W / M with respect to the student's hidden states.
struct ChunkedKl : Function<ChunkedKl> {
  static Tensor forward(AutogradContext* context, const Tensor& hidden_MD, const Tensor& teacher_MD,
                        const Tensor& weight_VD, int64_t chunk) {
    const int64_t rows = hidden_MD.size(0);
    Tensor total = at::zeros({}, hidden_MD.options().dtype(at::kDouble)), grad_MD = at::empty_like(hidden_MD);
    for (int64_t begin = 0; begin < rows; begin += chunk) {
      const int64_t count = std::min(chunk, rows - begin);
      const auto log_p = [&](const Tensor& states_MD) {
        return at::linear(states_MD.narrow(0, begin, count).to(weight_VD.scalar_type()), weight_VD)
            .to(at::kFloat)
            .log_softmax(1);
      };
      const Tensor student_CV = log_p(hidden_MD), teacher_CV = log_p(teacher_MD);
      const Tensor p_CV = teacher_CV.exp();
      total += (p_CV * (teacher_CV - student_CV)).sum(at::kDouble);
      const Tensor gap_CV = (student_CV.exp() - p_CV) / static_cast<double>(rows);
      grad_MD.narrow(0, begin, count).copy_(at::mm(gap_CV.to(weight_VD.scalar_type()), weight_VD));
    }
    context->save_for_backward({grad_MD});
    return (total / rows).to(at::kFloat);
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    const Tensor grad_MD = context->get_saved_variables()[0];
    return {grad_MD * grads[0].to(grad_MD.scalar_type()), Tensor(), Tensor(), Tensor()};
  }
};

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
  Terms operator()(const Backbone& backbone, const Memory& memory, const Batch& batch,
                   const StepKey&) override {
    CTXC_CHECK(!backbone.trainable(), ErrorKind::kUsage,
               "take kd out of section objective, or freeze the base",
               "objective kd: the teacher is the frozen base (found backbone.train: true)");
    const Reading student = read_memory(backbone, memory, batch);
    CTXC_CHECK(student.target_M.numel() > 0, ErrorKind::kInput, "see what the data holds with --dry-run",
               "objective kd: a batch of {} examples has no supervised token", batch.examples.size());
    Tensor teacher_MD;
    {
      const at::NoGradGuard no_grad;
      const Reading teacher = read_memory(backbone, full_memory(backbone, memory, batch), batch);
      teacher_MD = backbone.forward(teacher.rows).hidden[0].index_select(0, teacher.source_M);
    }
    const Tensor hidden_PD = backbone.forward(student.rows).hidden[0];
    return {{"kd", chunked_kl(hidden_PD.index_select(0, student.source_M), teacher_MD, backbone.head_VD())}};
  }
};

}  // namespace

Tensor chunked_kl(const Tensor& hidden_MD, const Tensor& teacher_MD, const Tensor& weight_VD, int64_t chunk) {
  CTXC_CHECK(hidden_MD.size(0) > 0 && hidden_MD.sizes() == teacher_MD.sizes(), ErrorKind::kInternal, "",
             "distillation: the student's and the teacher's states do not fit (found {} and {} rows)",
             hidden_MD.size(0), teacher_MD.size(0));
  return ChunkedKl::apply(hidden_MD, teacher_MD.detach(), weight_VD.detach(), chunk);
}

std::unique_ptr<Objective> make_distillation() {
  return std::make_unique<Distillation>();
}

}  // namespace ctxc
