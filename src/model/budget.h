// What a method may claim and read. The compression ratio is real: it counts every vector that the decoder
// reads, the head excepted. And the base reads no further than its window, beyond which its positions were
// never trained.
#pragma once
#include "model/llama_config.h"
#include "model/memory.h"

namespace ctxc {

/// Every row of `lengths` tokens has at most ceil(tokens / ratio) valid slots, state vectors included. Error
/// kInternal.
void check_budget(const Memory& memory, const std::vector<int64_t>& lengths, int64_t ratio);

/// A row of `tokens` context tokens, and `beside` more that the method reads with them, fits into one pass of
/// the base. Error kInput.
void check_window(int64_t tokens, int64_t beside, const LlamaConfig& backbone);

}  // namespace ctxc
