// The compression ratio is real: it counts every vector that the decoder reads, the head excepted.
#pragma once
#include "model/memory.h"

namespace ctxc {

/// Every row of `lengths` tokens has at most ceil(tokens / ratio) valid slots, state vectors included. Error
/// kInternal.
void check_budget(const Memory& memory, const std::vector<int64_t>& lengths, int64_t ratio);

}  // namespace ctxc
