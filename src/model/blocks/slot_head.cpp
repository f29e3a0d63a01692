#include "model/blocks/slot_head.h"

#include <algorithm>
#include <cmath>

namespace ctxc {

double table_rms(const Tensor& table_VD) {
  const at::NoGradGuard no_grad;
  double sum = 0;
  constexpr int64_t kRows = 8192;  // the table of a large base is not widened at once
  for (int64_t row = 0; row < table_VD.size(0); row += kRows)
    sum += table_VD.slice(0, row, row + kRows).to(at::kFloat).square().sum().item<double>();
  return std::sqrt(sum / static_cast<double>(table_VD.numel()));
}

double EmbeddingRms::of(const Backbone& backbone) const {
  if (measured_ == &backbone && !backbone.trainable()) return value_;
  measured_ = &backbone;
  value_ = table_rms(backbone.weights().at("model.embed_tokens.weight"));
  return value_;
}

Tensor SlotHead::forward(const Tensor& features, const Backbone& backbone) const {
  Tensor slots = linear(unit_rms(features), *this).to(at::kFloat);
  if (residual_from_) slots = slots + features.slice(-1, *residual_from_).to(at::kFloat);
  return slots * size_.of(backbone);
}

void SlotHead::start_at_residual(int64_t first) {
  residual_from_ = first;
  const at::NoGradGuard no_grad;
  weight.zero_();
}

std::shared_ptr<SlotHead> make_slot_head(int64_t features, int64_t model_width, uint64_t seed,
                                         const std::string& name) {
  const Draw rule{Draw::Kind::kNormal, 1 / std::sqrt(static_cast<double>(features))};
  return std::make_shared<SlotHead>(draw({model_width, features}, rule, seed, name + ".weight"),
                                    at::zeros({model_width}, at::kFloat));
}

Tensor principal_directions(const Tensor& table_VD, int64_t count) {
  const int64_t width = table_VD.size(1), used = std::min(count, width);
  const Tensor rows_VD = unit_rms(table_VD);
  const Tensor moment_DD = at::matmul(rows_VD.t(), rows_VD) / static_cast<double>(rows_VD.size(0));
  const Tensor vectors_DD = std::get<1>(at::linalg_eigh(moment_DD));
  Tensor directions = at::zeros({count, width}, at::kFloat);
  directions.slice(0, 0, used).copy_(vectors_DD.flip({1}).slice(1, 0, used).t());
  return directions;
}

void start_along(SlotHead& head, const Tensor& directions_ND, int64_t first) {
  const at::NoGradGuard no_grad;
  const double gain =
      std::sqrt(static_cast<double>(directions_ND.size(1)) / static_cast<double>(directions_ND.size(0)));
  head.weight.mul_(0.1);
  head.weight.slice(1, first, first + directions_ND.size(0)).add_(directions_ND.t(), gain);
}

Memory lay_out_slots(const Context& context, const CompressorSetup& setup, bool sink,
                     const std::vector<Tensor>& slots, const std::vector<Tensor>& masks,
                     const std::vector<Tensor>& positions) {
  const at::Device device = context.ids_P().device();
  const int64_t batch = context.batch();
  const int64_t head = sink ? static_cast<int64_t>(setup.head_ids.size()) : 0;
  const at::TensorOptions options = at::TensorOptions().device(device);
  Memory memory;
  const at::ScalarType dtype = context.backbone().compute_dtype();
  memory.slots_BKD = slots.empty() ? at::zeros({batch, 0, setup.backbone.hidden_size}, options.dtype(dtype))
                                   : at::cat(slots, 1).to(dtype);
  memory.mask_BK = masks.empty() ? at::zeros({batch, 0}, options.dtype(at::kBool)) : at::cat(masks, 1);
  memory.head_ids_BP = at::tensor(at::ArrayRef<int64_t>(setup.head_ids), at::kLong)
                           .slice(0, 0, head)
                           .to(device)
                           .expand({batch, head});
  number_densely(memory, head);
  if (!positions.empty()) {
    memory.position_BK =
        (at::cat(positions, 1).round().to(at::kLong) + head).masked_fill(memory.mask_BK.logical_not(), 0);
    memory.next_position_B = at::tensor(context.lengths(), at::kLong).to(device) + head;
  }
  return memory;
}

}  // namespace ctxc
