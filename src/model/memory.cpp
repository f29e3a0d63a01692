#include "model/memory.h"

namespace ctxc {

int64_t Memory::batch() const {
  return mask_BK.size(0);
}
int64_t Memory::slots() const {
  return mask_BK.size(1);
}

void number_densely(Memory& memory, int64_t head) {
  const Tensor count_BK = memory.mask_BK.to(at::kLong).cumsum(1);
  memory.position_BK = (count_BK - 1 + head).masked_fill(memory.mask_BK.logical_not(), 0);
  memory.next_position_B = memory.mask_BK.sum(1) + head;
}

void number_by_column(Memory& memory, int64_t head) {
  const int64_t batch = memory.batch(), slots = memory.slots();
  memory.position_BK = at::arange(head, head + slots, at::kLong).expand({batch, slots}).contiguous();
  memory.next_position_B = at::full({batch}, head + slots, at::kLong);
}

}  // namespace ctxc
