#include "model/blocks/scale_path.h"

#include <cmath>

namespace ctxc {
namespace {

/// A linear map that starts as the identity: a row that no pair took starts unchanged.
std::shared_ptr<Matrix> identity(int64_t width) {
  return std::make_shared<Matrix>(at::eye(width, at::kFloat));
}

std::vector<int64_t> targets_of(const std::vector<int64_t>& lengths, int64_t ratio) {
  std::vector<int64_t> targets;
  for (const int64_t length : lengths) targets.push_back((length + ratio - 1) / ratio);
  return targets;
}

/// rows [B, K, ...] at parent [B, N] (K = none, zeros).
Tensor rows_at(const Tensor& rows, const Tensor& index_BN) {
  auto shape = rows.sizes().vec();
  const int64_t batch = shape[0], columns = shape[1];
  shape[1] = 1;
  const Tensor padded = at::cat({rows, at::zeros(shape, rows.options())}, 1).flatten(0, 1);
  const Tensor start_B1 = at::arange(batch, index_BN.options()).mul(columns + 1).unsqueeze(1);
  shape[1] = index_BN.size(1);
  return padded.index_select(0, (index_BN + start_B1).flatten()).view(shape);
}

}  // namespace

int64_t scale_levels(const ScaleOptions& options, int64_t ratio) {
  if (options.reduce != Reduce::kWindow) return cluster_levels(options.longest, ratio);
  int64_t levels = 0;
  while ((int64_t{1} << levels) < ratio) ++levels;
  return levels;
}

AttentionRule scale_rule(const ScaleOptions& options, int64_t level) {
  const bool halves = options.reduce == Reduce::kWindow;
  // (3/4)^l rows are left after l mild levels: the window of the nearest halving.
  const double halvings =
      halves ? static_cast<double>(level) : std::round(static_cast<double>(level) * std::log2(4.0 / 3.0));
  const double reach = static_cast<double>(options.window) * std::exp2(halvings);
  // Blocks are exact where rows further apart than a block are further apart than the window. Clusters may be
  // single tokens, so their block is the whole reach; `global` may put rows closer than a token.
  const int64_t block = halves                              ? options.window
                        : options.reduce == Reduce::kGlobal ? 0
                                                            : static_cast<int64_t>(reach);
  return {.code = options.code, .window = reach, .block = block, .proportional = !halves};
}

std::shared_ptr<ScaleDown::Level> ScaleDown::make_level(bool reads_buffer, uint64_t seed,
                                                        const std::string& full) {
  const int64_t width = options_.width, heads = options_.heads;
  const bool quiet = options_.start != PathStart::kRandom;
  auto level = std::make_shared<Level>();
  level->attention = level->register_module(
      "attention", std::make_shared<MultiHeadAttention>(width, heads, seed, full + ".attention", quiet));
  if (reads_buffer) {
    level->buffer = level->register_module(
        "buffer", std::make_shared<MultiHeadAttention>(width, heads, seed, full + ".buffer"));
    level->gate = level->register_parameter("gate", at::full({1}, -2.0, at::kFloat));
  }
  level->feed_forward = level->register_module(
      "feed_forward", std::make_shared<FeedForward>(width, seed, full + ".feed_forward", quiet));
  level->pool = level->register_module(
      "pool", std::make_shared<PairPool>(width, heads, options_.pool, seed, full + ".pool", options_.start));
  const bool linear_pool = options_.pool == Pool::kConcat || options_.pool == Pool::kMeanLinear;
  if (options_.reduce != Reduce::kWindow && linear_pool)
    level->single = level->register_module("single", identity(width));
  return level;
}

ScaleDown::ScaleDown(const ScaleOptions& options, uint64_t seed, const std::string& name)
    : options_(options) {
  if (options.reduce != Reduce::kWindow) {
    levels_.push_back(register_module("level", make_level(options.reads_buffer, seed, name + ".level")));
    return;
  }
  for (int64_t s = 0; s < scale_levels(options, options.ratio); ++s) {
    const std::string part = "level" + std::to_string(s + 1);
    levels_.push_back(
        register_module(part, make_level(options.reads_buffer && s > 0, seed, name + "." + part)));
  }
}

const ScaleDown::Level& ScaleDown::level(int64_t index) const {
  return *levels_[options_.reduce == Reduce::kWindow ? static_cast<size_t>(index) : 0];
}

MergePlan ScaleDown::plan(const Level& level, const Tensor& normed, const Places& places,
                          const std::vector<int64_t>& lengths, const std::vector<int64_t>& targets) const {
  if (options_.reduce == Reduce::kWindow) return window_plan(lengths, normed.size(1), normed.device());
  const at::NoGradGuard no_grad;
  return cluster_plan(options_.reduce, level.attention->mean_key(normed), places, lengths, targets,
                      options_.size_penalty);
}

ScaleDown::Result ScaleDown::forward(Tensor x_BND, Places places, std::vector<int64_t> lengths, int64_t ratio,
                                     const Tensor& buffer_BMD) const {
  Result result{.x_BKD = {}, .lengths = {}, .places = {places}, .plans = {}};
  const std::vector<int64_t> targets = targets_of(lengths, ratio);
  const int64_t levels = scale_levels(options_, ratio);
  Places at_buffer;
  if (buffer_BMD.defined()) {
    const auto options = places.position.options();
    at_buffer = {at::zeros(buffer_BMD.sizes().slice(0, 2), options),
                 at::ones(buffer_BMD.sizes().slice(0, 2), options.dtype(at::kBool))};
  }
  for (int64_t l = 0; l < levels; ++l) {
    const Level& here = level(l);
    const Tensor normed = unit_rms(x_BND);
    const MergePlan merges = plan(here, normed, places, lengths, targets);
    x_BND = x_BND + here.attention->self(normed, places, scale_rule(options_, l));
    if (l > 0 && buffer_BMD.defined()) {
      const AttentionRule everything{.code = options_.code};
      x_BND = x_BND + here.gate.sigmoid() * here.buffer->forward(unit_rms(x_BND), places,
                                                                 unit_rms(buffer_BMD), at_buffer, everything);
    }
    x_BND = x_BND + here.feed_forward->forward(unit_rms(x_BND));
    const Places pairs{gather_members(places.position, merges), gather_members(places.mask, merges),
                       gather_members(places.size, merges)};
    const Tensor members = gather_members(x_BND, merges);
    Tensor merged = here.pool->forward(members, pairs).to(at::kFloat);
    if (options_.reduce != Reduce::kWindow) {
      Tensor alone = members.slice(1, 0, members.size(1), 2);
      if (here.single) alone = linear(unit_rms(alone), *here.single).to(at::kFloat);
      merged = at::where(merges.merged_BK.unsqueeze(-1), merged, alone.to(at::kFloat));
    }
    x_BND = merged;
    places = merged_places(pairs);
    lengths = merges.lengths;
    result.places.push_back(places);
    result.plans.push_back(merges);
  }
  result.x_BKD = x_BND;
  result.lengths = std::move(lengths);
  return result;
}

Tensor ScaleDown::Result::latent_of_token() const {
  const Places& tokens = places.front();
  Tensor row_BN = at::arange(tokens.mask.size(1), tokens.mask.options().dtype(at::kLong))
                      .expand(tokens.mask.sizes())
                      .contiguous();
  for (const MergePlan& plan : plans) {
    const int64_t none = plan.member_BK2.size(1);
    // A row that is gone (padding) stays out of range.
    const Tensor padded =
        at::cat({plan.parent_BN, at::full({plan.parent_BN.size(0), 1}, none, plan.parent_BN.options())}, 1);
    row_BN = padded.gather(1, row_BN.clamp_max(plan.parent_BN.size(1)));
  }
  return row_BN.masked_fill(tokens.mask.logical_not(), places.back().mask.size(1));
}

ScaleUp::ScaleUp(const ScaleOptions& options, uint64_t seed, const std::string& name) : options_(options) {
  const bool shared = options.reduce != Reduce::kWindow;
  const int64_t width = options.width, count = shared ? 1 : scale_levels(options, options.ratio);
  for (int64_t s = 0; s < count; ++s) {
    const std::string part = shared ? "level" : "level" + std::to_string(s + 1), full = name + "." + part;
    auto level = register_module(part, std::make_shared<Level>());
    level->split = level->register_module("split", make_matrix(width, 2 * width, seed, full + ".split"));
    if (shared) level->single = level->register_module("single", identity(width));
    level->attention = level->register_module(
        "attention", std::make_shared<MultiHeadAttention>(width, options.heads, seed, full + ".attention"));
    level->feed_forward = level->register_module(
        "feed_forward", std::make_shared<FeedForward>(width, seed, full + ".feed_forward"));
    levels_.push_back(level);
  }
  out_ = register_module("out", make_matrix(width, width, seed, name + ".out"));
}

Tensor ScaleUp::forward(Tensor x_BKD, const ScaleDown::Result& down) const {
  for (size_t i = down.plans.size(); i-- > 0;) {
    const Level& level = *levels_[levels_.size() == 1 ? 0 : i];
    const MergePlan& plan = down.plans[i];
    const Tensor normed = unit_rms(x_BKD);
    const Tensor both = linear(normed, *level.split).to(at::kFloat);
    const int64_t width = both.size(2) / 2;
    const Tensor first = rows_at(both.slice(2, 0, width), plan.parent_BN),
                 second = rows_at(both.slice(2, width), plan.parent_BN);
    const Tensor side = plan.side_BN.unsqueeze(-1);
    Tensor rows = at::where(side.eq(1), second, first);
    if (level.single)
      rows =
          at::where(side.eq(2), rows_at(linear(normed, *level.single).to(at::kFloat), plan.parent_BN), rows);
    const AttentionRule rule = scale_rule(options_, static_cast<int64_t>(i));
    rows = rows + level.attention->self(unit_rms(rows), down.places[i], rule);
    x_BKD = rows + level.feed_forward->forward(unit_rms(rows));
  }
  return linear(unit_rms(x_BKD), *out_);
}

}  // namespace ctxc
