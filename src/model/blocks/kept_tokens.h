// A part of the context as it stands, chosen without a look at it: what references read instead of slots.
#pragma once
#include "model/compressor.h"

namespace ctxc {

/// All of it, nothing, or ceil(N / ratio) tokens: the first, the last, or the first of every `ratio`.
enum class Keep { kAll, kNothing, kHead, kTail, kStrided };
/// full | none | head | tail | strided
Keep keep_named(const std::string& name);

int64_t kept_count(Keep keep, int64_t length, int64_t ratio);

/// Input embeddings [B, K, D] of the kept tokens of every row, and which of them are there, bool [B, K].
struct KeptTokens {
  Tensor embeds_BKD, mask_BK;
};
KeptTokens kept_tokens(const Context& context, Keep keep, int64_t ratio);

}  // namespace ctxc
