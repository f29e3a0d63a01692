// Which rows of a sequence are merged in pairs: hierarchical clustering with a fixed number of merges a level
// (progressive.md section 3), so that a text of n tokens becomes exactly ceil(n / r) rows whatever it says.
//   window   fixed pairs (1, 2), (3, 4), …                                   the control
//   cluster  adjacent pairs, greedily by falling e_i = cos(k_i, k_{i+1}) - tau (ln n_i + ln n_{i+1}); ties to
//            the lower index. q <= ceil((n - 1) / 3) pairs are always found: so many has any maximal matching
//            of a path
//   global   bipartite soft matching (ToMe, Bolya et al., ICLR 2023): rows alternate between two sides, each
//            row of the first is offered to its most similar partner, the best offers with distinct partners
//            win; what is missing is filled up by the greedy rule. Results stand at their mean position, in
//            that order
// k is the mean over heads of the level's keys before any rotation, l2-normalised, without gradient; n the
// number of tokens a row stands for. The choice is discrete and made on the host.
#pragma once
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "model/blocks/local_attention.h"

namespace ctxc {

enum class Reduce { kCluster, kWindow, kGlobal };

/// Rows of a level become rows of the next one.
struct MergePlan {
  std::vector<int64_t> lengths;  ///< real rows of each batch row after the level
  Tensor member_BK2;             ///< int64 [B, K, 2]: first and second member in reading order; N = none
  Tensor merged_BK;              ///< bool: goes through the merge; others are single rows that pass
  Tensor parent_BN;              ///< int64: the next level's row of each row; K = none
  Tensor side_BN;                ///< int64: 0 first member, 1 second member, 2 single
};

/// Pairs (i, i+1), as their i in rising order: `count` of them greedily by falling similarity [n - 1].
/// `free` marks the rows that may take part, and is updated.
std::vector<int64_t> greedy_pairs(std::span<const float> similarity, int64_t count, std::vector<bool>& free);

/// Rows left after a level of `cluster` or `global`: max(target, floor(3 n / 4)).
int64_t next_length(int64_t length, int64_t target);
/// Levels until every text of 1..longest tokens has become ceil(n / ratio) rows.
int64_t cluster_levels(int64_t longest, int64_t ratio);

/// Fixed pairs of the first `lengths` rows.
MergePlan window_plan(const std::vector<int64_t>& lengths, int64_t columns, const at::Device& device);
/// One level of `cluster` or `global` towards `targets` rows. key [B, N, E] of any norm; places with sizes.
MergePlan cluster_plan(Reduce reduce, const Tensor& key_BNE, const Places& places,
                       const std::vector<int64_t>& lengths, const std::vector<int64_t>& targets,
                       double size_penalty);

/// rows [B, N, ...] of both members side by side: [B, 2K, ...]; zeros (false) where there is none.
Tensor gather_members(const Tensor& rows, const MergePlan& plan);

}  // namespace ctxc
