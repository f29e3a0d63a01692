// Untrained memories of one context: rows of its own keys and values, the rest evicted.
//   truncate   the first K tokens
//   snapkv     Li et al., "SnapKV: LLM Knows What You are Looking for Before Generation", arXiv 2404.14469:
//   in every layer
//              and key group, the last W tokens and the K - W earlier ones that they attend to most,
//                vote(s) = avgpool5( sum_{w, h in group} softmax_s(q_wh . k_s / sqrt(E)) )
//              W = min(32, K / 2). The paper's window is the end of the prompt, where the question stands; a
//              memory is made before any question, so here it is the end of the context.
// Rows of the prefix (the header) are kept beside the K. Kept keys are turned from where they stood to the K
// places behind the prefix, in order, as every memory's are.
#pragma once
#include <vector>

#include "model/per_document.h"

namespace ctxc {

/// Keys and values [1, G, K, E] of the first `count` context tokens.
std::vector<KvPair> truncated_rows(const Document& document, int64_t count);

/// Keys and values [1, G, K, E] of the `count` tokens of every group that SnapKV keeps.
std::vector<KvPair> snapkv_rows(const Backbone& backbone, const Document& document, int64_t count);

/// The columns of `key_GSE` that are kept, int64 [G, count], rising: the last W of S and the most voted of
/// those from `prefix` on. query_WHE are the last W rows' queries after RoPE.
Tensor snapkv_columns(const Tensor& query_WHE, const Tensor& key_GSE, int64_t prefix, int64_t count);

}  // namespace ctxc
