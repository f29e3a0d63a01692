// Virtual tokens of prompt tuning (Lester et al., "The Power of Scale for Parameter-Efficient Prompt Tuning",
// EMNLP 2021): rows in front of everything that a frozen Llama reads, the same for every text. Token i is
// E[id_i] + delta_i: it starts as a row of the base's vocabulary, and delta, the only parameter, at zero. So
// a checkpoint needs no copy of E.
#pragma once
#include <vector>

#include "model/compressor.h"

namespace ctxc {

/// Ids [K] the tokens start from: `init_ids` repeated to the length, or where there are none rows of the
/// vocabulary drawn once for all by a fixed stream. Error kUsage for an id out of range
/// (compressor.init_ids).
Tensor virtual_token_ids(int64_t count, const std::vector<int64_t>& init_ids, int64_t vocabulary);
/// The tokens [K, D] in the base's dtype.
Tensor virtual_tokens(const Tensor& ids_K, const Tensor& delta_KD, const Backbone& backbone);
/// What both methods that have them say of `init_ids`.
inline constexpr const char* kInitIdsHelp =
    "token ids (of a text, as ctxc-inspect tokenize gives them) the virtual tokens start from, repeated to "
    "the length; empty: random rows of the vocabulary";

}  // namespace ctxc
