#include "model/blocks/down_path.h"

#include "model/blocks/full_precision.h"

namespace ctxc {

AttentionRule local_rule(const PathOptions& options, int64_t level) {
  return {.code = options.code,
          .window = static_cast<double>(options.window) * static_cast<double>(int64_t{1} << level),
          .block = options.window,
          .proportional = false};
}

DownPath::DownPath(const PathOptions& options, uint64_t seed, const std::string& name) : options_(options) {
  const int64_t width = options.width, heads = options.heads;
  const bool quiet = options.start != PathStart::kRandom;
  for (int64_t s = 0; s < options.levels; ++s) {
    const std::string part = "level" + std::to_string(s + 1), full = name + "." + part;
    auto level = register_module(part, std::make_shared<Level>());
    level->attention = level->register_module(
        "attention", std::make_shared<MultiHeadAttention>(width, heads, seed, full + ".attention", quiet));
    level->feed_forward = level->register_module(
        "feed_forward", std::make_shared<FeedForward>(width, seed, full + ".feed_forward", quiet));
    level->pool = level->register_module(
        "pool", std::make_shared<PairPool>(width, heads, options.pool, seed, full + ".pool", options.start));
    levels_.push_back(level);
  }
}

DownPath::Result DownPath::forward(Tensor x_BND, Places places) const {
  Result result{.x_BKD = {}, .places = {places}};
  for (size_t s = 0; s < levels_.size(); ++s) {
    const Level& level = *levels_[s];
    x_BND =
        x_BND + level.attention->self(unit_rms(x_BND), places, local_rule(options_, static_cast<int64_t>(s)));
    x_BND = x_BND + level.feed_forward->forward(unit_rms(x_BND));
    x_BND = level.pool->forward(x_BND, places).to(at::kFloat);
    places = merged_places(places);
    result.places.push_back(places);
  }
  result.x_BKD = x_BND;
  return result;
}

UpPath::UpPath(const PathOptions& options, int64_t latent_width, uint64_t seed, const std::string& name)
    : options_(options) {
  const int64_t width = options.width;
  in_ = register_module("in", make_matrix(latent_width, width, seed, name + ".in"));
  for (int64_t s = options.levels; s > 0; --s) {
    const std::string part = "level" + std::to_string(s), full = name + "." + part;
    auto level = register_module(part, std::make_shared<Level>());
    level->split = level->register_module("split", make_matrix(width, 2 * width, seed, full + ".split"));
    level->attention = level->register_module(
        "attention", std::make_shared<MultiHeadAttention>(width, options.heads, seed, full + ".attention"));
    levels_.push_back(level);
  }
  out_ = register_module("out", make_matrix(width, width, seed, name + ".out"));
}

Tensor UpPath::forward(const Tensor& latent_BKZ, const std::vector<Places>& places) const {
  Tensor x_BKD = linear(latent_BKZ, *in_);
  for (size_t i = 0; i < levels_.size(); ++i) {
    const size_t finer = levels_.size() - 1 - i;
    x_BKD = split_pairs(linear(unit_rms(x_BKD), *levels_[i]->split), places[finer].mask.size(1));
    x_BKD = x_BKD + levels_[i]->attention->self(unit_rms(x_BKD), places[finer],
                                                local_rule(options_, static_cast<int64_t>(finer)));
  }
  return linear(unit_rms(x_BKD), *out_);
}

Tensor split_pairs(const Tensor& joined_BK2D, int64_t rows) {
  return joined_BK2D.reshape({joined_BK2D.size(0), 2 * joined_BK2D.size(1), joined_BK2D.size(2) / 2})
      .slice(1, 0, rows);
}

std::pair<Tensor, double> cosine_distance(const Tensor& x_BND, const Tensor& target_BND,
                                          const Tensor& mask_BN) {
  const FullPrecision full;
  const Tensor real = mask_BN.to(at::kFloat);
  const double count = real.sum().item<double>();
  // unit_rms(x) . unit_rms(y) / d is the cosine, and 0 (not NaN) for a row of zeros
  const Tensor cosine = (unit_rms(x_BND) * unit_rms(target_BND)).mean(-1);
  return {((1 - cosine) * real).sum() / std::max(count, 1.0), count};
}

}  // namespace ctxc
