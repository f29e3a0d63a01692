#include "model/blocks/merge_plan.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace ctxc {
namespace {

constexpr int64_t kNone = -1;

/// A row of the next level: its members (second = none for a single) and where it will stand.
struct Cluster {
  int64_t first = kNone, second = kNone;
  double position = 0;
  bool merged = false;
};

/// One row of the batch on the host.
struct HostRow {
  int64_t length;
  Tensor key_NE;  ///< normalised
  const float* position;
  const float* size;
  double log_size(int64_t i) const { return std::log(std::max(size[i], 1e-6F)); }
};

std::vector<float> neighbour_similarity(const HostRow& row, double size_penalty) {
  if (row.length < 2) return {};
  const Tensor cosine = (row.key_NE.slice(0, 1) * row.key_NE.slice(0, 0, row.length - 1)).sum(1).contiguous();
  std::vector<float> similarity(cosine.const_data_ptr<float>(),
                                cosine.const_data_ptr<float>() + row.length - 1);
  for (int64_t i = 0; i + 1 < row.length; ++i)
    similarity[static_cast<size_t>(i)] -=
        static_cast<float>(size_penalty * (row.log_size(i) + row.log_size(i + 1)));
  return similarity;
}

/// The best partner of every row of the first side (even rows), offers by falling similarity.
std::vector<std::pair<int64_t, int64_t>> soft_matching(const HostRow& row, int64_t count,
                                                       double size_penalty) {
  struct Offer {
    float similarity;
    int64_t from, to;
  };
  if (row.length < 2 || count == 0) return {};
  Tensor log_size = at::empty({row.length}, at::kFloat);
  for (int64_t i = 0; i < row.length; ++i) log_size[i] = row.log_size(i);
  const Tensor even_E = row.key_NE.slice(0, 0, row.length, 2), odd_E = row.key_NE.slice(0, 1, row.length, 2);
  const Tensor score =
      at::matmul(even_E, odd_E.t()) - size_penalty * (log_size.slice(0, 0, row.length, 2).unsqueeze(1) +
                                                      log_size.slice(0, 1, row.length, 2).unsqueeze(0));
  const auto [best, index] = score.max(1);
  std::vector<Offer> offers;
  for (int64_t i = 0; i < best.size(0); ++i)
    offers.push_back({best[i].item<float>(), 2 * i, 2 * index[i].item<int64_t>() + 1});
  std::stable_sort(offers.begin(), offers.end(),
                   [](const Offer& a, const Offer& b) { return a.similarity > b.similarity; });
  std::vector<bool> taken(static_cast<size_t>(row.length), false);
  std::vector<std::pair<int64_t, int64_t>> pairs;
  for (const Offer& offer : offers) {
    if (static_cast<int64_t>(pairs.size()) == count) break;
    if (taken[static_cast<size_t>(offer.to)]) continue;
    taken[static_cast<size_t>(offer.to)] = true;
    pairs.emplace_back(std::min(offer.from, offer.to), std::max(offer.from, offer.to));
  }
  return pairs;
}

std::vector<Cluster> cluster_row(Reduce reduce, const HostRow& row, int64_t merges, double size_penalty) {
  std::vector<bool> free(static_cast<size_t>(row.length), true);
  std::vector<std::pair<int64_t, int64_t>> pairs;
  if (reduce == Reduce::kGlobal) pairs = soft_matching(row, merges, size_penalty);
  for (const auto& [first, second] : pairs)
    free[static_cast<size_t>(first)] = free[static_cast<size_t>(second)] = false;
  const std::vector<float> similarity = neighbour_similarity(row, size_penalty);
  for (const int64_t i : greedy_pairs(similarity, merges - static_cast<int64_t>(pairs.size()), free))
    pairs.emplace_back(i, i + 1);
  std::vector<Cluster> clusters;
  for (const auto& [a, b] : pairs) {
    const double size_a = row.size[a], size_b = row.size[b];
    clusters.push_back(
        {a, b, (size_a * row.position[a] + size_b * row.position[b]) / (size_a + size_b), true});
  }
  for (int64_t i = 0; i < row.length; ++i)
    if (free[static_cast<size_t>(i)]) clusters.push_back({i, kNone, row.position[i], false});
  std::sort(clusters.begin(), clusters.end(), [](const Cluster& a, const Cluster& b) {
    return a.position != b.position ? a.position < b.position : a.first < b.first;
  });
  return clusters;
}

MergePlan make_plan(const std::vector<std::vector<Cluster>>& rows, int64_t columns,
                    const at::Device& device) {
  MergePlan plan;
  int64_t longest = 0;
  for (const auto& row : rows) {
    plan.lengths.push_back(static_cast<int64_t>(row.size()));
    longest = std::max(longest, plan.lengths.back());
  }
  const int64_t batch = static_cast<int64_t>(rows.size());
  Tensor member = at::full({batch, longest, 2}, columns, at::kLong);
  Tensor merged = at::zeros({batch, longest}, at::kBool);
  Tensor parent = at::full({batch, columns}, longest, at::kLong),
         side = at::zeros({batch, columns}, at::kLong);
  auto members = member.accessor<int64_t, 3>();
  auto merges = merged.accessor<bool, 2>();
  auto parents = parent.accessor<int64_t, 2>(), sides = side.accessor<int64_t, 2>();
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t k = 0; k < plan.lengths[static_cast<size_t>(b)]; ++k) {
      const Cluster& cluster = rows[static_cast<size_t>(b)][static_cast<size_t>(k)];
      members[b][k][0] = cluster.first;
      merges[b][k] = cluster.merged;
      parents[b][cluster.first] = k;
      sides[b][cluster.first] = cluster.merged ? 0 : 2;
      if (cluster.second == kNone) continue;
      members[b][k][1] = cluster.second;
      parents[b][cluster.second] = k;
      sides[b][cluster.second] = 1;
    }
  plan.member_BK2 = member.to(device);
  plan.merged_BK = merged.to(device);
  plan.parent_BN = parent.to(device);
  plan.side_BN = side.to(device);
  return plan;
}

}  // namespace

std::vector<int64_t> greedy_pairs(std::span<const float> similarity, int64_t count, std::vector<bool>& free) {
  std::vector<int64_t> order(similarity.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return similarity[static_cast<size_t>(a)] > similarity[static_cast<size_t>(b)];
  });
  std::vector<int64_t> pairs;
  for (const int64_t i : order) {
    if (static_cast<int64_t>(pairs.size()) >= count) break;
    const auto left = static_cast<size_t>(i);
    if (!free[left] || !free[left + 1]) continue;
    free[left] = free[left + 1] = false;
    pairs.push_back(i);
  }
  std::sort(pairs.begin(), pairs.end());
  return pairs;
}

int64_t next_length(int64_t length, int64_t target) {
  return std::max(target, 3 * length / 4);
}

int64_t cluster_levels(int64_t longest, int64_t ratio) {
  int64_t most = 0;
  for (int64_t n = 1; n <= longest; ++n) {
    const int64_t target = (n + ratio - 1) / ratio;
    int64_t levels = 0;
    for (int64_t rows = n; rows > target; rows = next_length(rows, target)) ++levels;
    most = std::max(most, levels);
  }
  return most;
}

MergePlan window_plan(const std::vector<int64_t>& lengths, int64_t columns, const at::Device& device) {
  std::vector<std::vector<Cluster>> rows;
  for (const int64_t length : lengths) {
    std::vector<Cluster>& row = rows.emplace_back();
    for (int64_t i = 0; i < length; i += 2) row.push_back({i, i + 1 < length ? i + 1 : kNone, 0, true});
  }
  return make_plan(rows, columns, device);
}

MergePlan cluster_plan(Reduce reduce, const Tensor& key_BNE, const Places& places,
                       const std::vector<int64_t>& lengths, const std::vector<int64_t>& targets,
                       double size_penalty) {
  const Tensor keys =
      unit_rms(key_BNE.detach()).to(at::kCPU) / std::sqrt(static_cast<double>(key_BNE.size(2)));  // l2 norm 1
  const Tensor position = places.position.to(at::kCPU, at::kFloat).contiguous();
  const Tensor size = places.size.to(at::kCPU, at::kFloat).contiguous();
  const int64_t columns = key_BNE.size(1);
  std::vector<std::vector<Cluster>> rows;
  for (size_t b = 0; b < lengths.size(); ++b) {
    const auto row = static_cast<int64_t>(b);
    const HostRow host{.length = lengths[b],
                       .key_NE = keys[row].slice(0, 0, lengths[b]),
                       .position = position.const_data_ptr<float>() + row * columns,
                       .size = size.const_data_ptr<float>() + row * columns};
    const int64_t merges = lengths[b] - next_length(lengths[b], targets[b]);
    rows.push_back(cluster_row(reduce, host, std::max<int64_t>(merges, 0), size_penalty));
  }
  return make_plan(rows, columns, key_BNE.device());
}

Tensor gather_members(const Tensor& rows, const MergePlan& plan) {
  auto shape = rows.sizes().vec();
  const int64_t batch = shape[0], columns = shape[1];
  shape[1] = 1;
  const Tensor padded = at::cat({rows, at::zeros(shape, rows.options())}, 1).flatten(0, 1);
  const Tensor start_B11 = at::arange(batch, plan.member_BK2.options()).mul(columns + 1).view({batch, 1, 1});
  shape[1] = 2 * plan.member_BK2.size(1);
  return padded.index_select(0, (plan.member_BK2 + start_B11).flatten()).view(shape);
}

}  // namespace ctxc
