#include "model/generate.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "model/device.h"
#include "model/loss.h"
#include "model/reading.h"
#include "model/sampling.h"

namespace ctxc {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

/// Rows that leave are cut out of the cache when they are at least this share of it: a cut copies the cache.
constexpr int64_t kCutShare = 4;

/// A batch after its prompts were read.
struct Prefilled {
  KvCache cache;
  Tensor mask_BS;     ///< bool over the cache's columns
  Tensor position_B;  ///< of the next token
  Tensor logits_BV;   ///< of the next token
};

/// Decodes until every row ended.
class Decoder {
 public:
  Decoder(const Backbone& backbone, Prefilled start, const GenerateOptions& options)
      : backbone_(backbone), options_(options), now_(std::move(start)) {
    alive_.resize(now_.logits_BV.size(0));
    std::iota(alive_.begin(), alive_.end(), 0);
    ended_.assign(alive_.size(), false);
    result_.tokens.resize(alive_.size());
  }

  GenerateResult run() {
    std::vector<Tensor> step_logits;
    while (result_.steps < options_.max_new_tokens && !alive_.empty()) {
      if (options_.want_step_logits) step_logits.push_back(spread(now_.logits_BV));
      const std::vector<int64_t> chosen = choose();
      ++result_.steps;
      if (std::all_of(alive_.begin(), alive_.end(), [&](int64_t row) { return ended_[row]; })) break;
      if (result_.steps < options_.max_new_tokens) advance(chosen);
    }
    if (options_.want_step_logits && !step_logits.empty())
      result_.step_logits_BTV = at::stack(step_logits, 1);
    return std::move(result_);
  }

 private:
  /// The next token of every row in the batch; rows that are still going record it.
  std::vector<int64_t> choose() {
    std::vector<int64_t> chosen(alive_.size());
    const Tensor best_B = now_.logits_BV.argmax(-1).cpu();
    for (size_t i = 0; i < alive_.size(); ++i) {
      const int64_t row = alive_[i];
      if (ended_[row]) continue;
      chosen[i] = best_B.const_data_ptr<int64_t>()[i];
      if (options_.temperature > 0) {
        CounterRng rng(options_.seed, "generate", result_.steps, row);
        chosen[i] = sample_token(now_.logits_BV[i], options_.temperature, options_.top_k, options_.top_p,
                                 rng.uniform());
      }
      result_.tokens[row].push_back(static_cast<TokenId>(chosen[i]));
      ended_[row] = std::find(options_.eos.begin(), options_.eos.end(), chosen[i]) != options_.eos.end();
    }
    return chosen;
  }

  /// Cuts ended rows if that pays, reads the chosen tokens.
  void advance(std::vector<int64_t> chosen) {
    std::vector<int64_t> kept;
    for (size_t i = 0; i < alive_.size(); ++i)
      if (!ended_[alive_[i]]) kept.push_back(static_cast<int64_t>(i));
    if (static_cast<int64_t>(alive_.size() - kept.size()) * kCutShare >=
        static_cast<int64_t>(alive_.size())) {
      const Tensor index = at::tensor(kept, at::kLong).to(backbone_.device());
      now_.cache.keep_rows(index);
      now_.mask_BS = now_.mask_BS.index_select(0, index);
      now_.position_B = now_.position_B.index_select(0, index);
      for (size_t i = 0; i < kept.size(); ++i) {
        alive_[i] = alive_[kept[i]];
        chosen[i] = chosen[kept[i]];
      }
      alive_.resize(kept.size());
      chosen.resize(kept.size());
    }
    const int64_t rows = static_cast<int64_t>(alive_.size());
    now_.mask_BS = at::cat({now_.mask_BS, at::ones({rows, 1}, now_.mask_BS.options())}, 1);
    const Tensor embeds_B1D = backbone_.embed(at::tensor(chosen, at::kLong)).unsqueeze(1);
    const Tensor hidden_B1D =
        backbone_.forward_padded(embeds_B1D, now_.mask_BS, now_.position_B.unsqueeze(1), {}, &now_.cache)
            .hidden[0];
    now_.position_B = now_.position_B + 1;
    now_.logits_BV = backbone_.logits(hidden_B1D.squeeze(1));
  }

  /// Logits of the rows in the batch at their places among all rows.
  Tensor spread(const Tensor& logits_BV) const {
    Tensor all = at::zeros({static_cast<int64_t>(ended_.size()), logits_BV.size(1)}, logits_BV.options());
    for (size_t i = 0; i < alive_.size(); ++i)
      if (!ended_[alive_[i]]) all[alive_[i]].copy_(logits_BV[i]);
    return all;
  }

  const Backbone& backbone_;
  const GenerateOptions& options_;
  Prefilled now_;
  std::vector<int64_t> alive_;  ///< the prompt of every row still in the batch
  std::vector<bool> ended_;     ///< per prompt
  GenerateResult result_;
};

/// Prompts grouped by the memory row they go on from.
struct Grouped {
  std::vector<Continuations> groups;
  std::vector<std::pair<size_t, size_t>> place;  ///< per prompt: its group and its text there
};

/// What is read of a prompt is the prompt and, if it has one, its target without the last token.
Grouped group_by_row(const std::vector<int64_t>& rows, const std::vector<Tokens>& prompts,
                     const std::vector<Tokens>& targets) {
  Grouped grouped;
  std::map<int64_t, size_t> group_of_row;
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto [it, is_new] = group_of_row.emplace(rows[i], grouped.groups.size());
    if (is_new) grouped.groups.push_back({.row = rows[i], .texts = {}});
    Continuations& group = grouped.groups[it->second];
    grouped.place.emplace_back(it->second, group.texts.size());
    Tokens& text = group.texts.emplace_back(prompts[i]);
    if (!targets.empty()) text.insert(text.end(), targets[i].begin(), targets[i].end() - 1);
  }
  return grouped;
}

/// For every prompt the packed indices of head, slots and its text, left-aligned in a grid: [B, T] and the
/// mask.
struct Grid {
  Tensor index_BT, mask_BT, last_B;  ///< last_B: packed index of the last token read
};

Grid grid_of(const PackedReading& reading, const Grouped& grouped, const std::vector<Tokens>& prompts) {
  const int64_t count = static_cast<int64_t>(prompts.size());
  int64_t widest = 0;
  for (size_t i = 0; i < prompts.size(); ++i)
    widest =
        std::max(widest, reading.prefix[grouped.place[i].first] + static_cast<int64_t>(prompts[i].size()));
  Grid grid{at::zeros({count, widest}, at::kLong), at::zeros({count, widest}, at::kBool),
            at::zeros({count}, at::kLong)};
  for (int64_t i = 0; i < count; ++i) {
    const auto [group, text] = grouped.place[i];
    const int64_t prefix = reading.prefix[group], length = static_cast<int64_t>(prompts[i].size());
    CTXC_CHECK(prefix + length > 0, ErrorKind::kUsage, "give the decoder a BOS token or a prompt",
               "generate: there is nothing to go on from (prompt {})", i);
    const int64_t start = reading.start[group], first = reading.first[group][text];
    grid.index_BT[i].narrow(0, 0, prefix).copy_(at::arange(start, start + prefix));
    grid.index_BT[i].narrow(0, prefix, length).copy_(at::arange(first, first + length));
    grid.mask_BT[i].narrow(0, 0, prefix + length).fill_(true);
    grid.last_B[i] = length > 0 ? first + length - 1 : start + prefix - 1;
  }
  return grid;
}

/// Mean -log p of every target's tokens; hidden_PD is what the base made of the reading.
std::vector<double> mean_nll(const Backbone& backbone, const PackedReading& reading, const Grouped& grouped,
                             const Tensor& hidden_PD, const std::vector<Tokens>& prompts,
                             const std::vector<Tokens>& targets) {
  std::vector<int64_t> sources, ids;
  for (size_t i = 0; i < targets.size(); ++i) {
    const auto [group, text] = grouped.place[i];
    append_predicting(reading, group, text, prompts[i].size(), targets[i].size(), sources);
    ids.insert(ids.end(), targets[i].begin(), targets[i].end());
  }
  const auto on_device = [&](const std::vector<int64_t>& values) {
    return to_device(at::tensor(values, at::kLong), backbone.device());
  };
  const Tensor nll_M =
      token_nll(hidden_PD.index_select(0, on_device(sources)), backbone.head_VD(), on_device(ids))
          .to(at::kCPU)
          .contiguous();
  std::vector<double> means;
  const float* next = nll_M.const_data_ptr<float>();
  for (const Tokens& target : targets) {
    means.push_back(std::accumulate(next, next + target.size(), 0.0) / static_cast<double>(target.size()));
    next += target.size();
  }
  return means;
}

/// Columns of the cache: the memory's keys (if it has some), then the grid's.
void fill_cache(KvCache& cache, const std::vector<KvPair>& packed, const Grid& grid, const Memory& memory,
                const Tensor& rows_B) {
  const int64_t count = grid.index_BT.size(0), columns = grid.index_BT.size(1);
  const Tensor index = grid.index_BT.flatten();
  for (size_t layer = 0; layer < packed.size(); ++layer) {
    const auto gather = [&](const Tensor& packed_1GPE, const Tensor* prefix_BGKE) {
      const Tensor spread_BGTE = packed_1GPE[0]
                                     .index_select(1, index.to(packed_1GPE.device()))
                                     .view({packed_1GPE.size(1), count, columns, packed_1GPE.size(3)})
                                     .transpose(0, 1);
      if (!prefix_BGKE) return spread_BGTE;
      return at::cat({prefix_BGKE->index_select(0, rows_B).to(spread_BGTE.options()), spread_BGTE}, 2);
    };
    const bool has_kv = !memory.kv.empty();
    cache.append(static_cast<int64_t>(layer),
                 gather(packed[layer].key_BGKE, has_kv ? &memory.kv[layer].key_BGKE : nullptr),
                 gather(packed[layer].value_BGKE, has_kv ? &memory.kv[layer].value_BGKE : nullptr));
  }
}

}  // namespace

GenerateResult generate(const Backbone& backbone, const Memory& memory, const std::vector<int64_t>& rows,
                        const std::vector<Tokens>& prompts, const GenerateOptions& options,
                        const std::vector<Tokens>& targets) {
  CTXC_CHECK(rows.size() == prompts.size() && (targets.empty() || targets.size() == prompts.size()),
             ErrorKind::kInternal, "", "generate: rows, prompts and targets do not fit (found {}, {} and {})",
             rows.size(), prompts.size(), targets.size());
  for (const Tokens& target : targets)
    CTXC_CHECK(!target.empty(), ErrorKind::kInternal, "", "generate: a target is empty");
  if (prompts.empty()) return {};
  const at::NoGradGuard no_grad;
  const Clock::time_point start = Clock::now();
  const Grouped grouped = group_by_row(rows, prompts, targets);
  const PackedReading reading = pack_reading(backbone, memory, grouped.groups);
  const Grid grid = grid_of(reading, grouped, prompts);
  const ForwardResult read =
      backbone.forward(reading.rows, {.collect = {}, .layers = 0, .keep_kv = true, .adapters = nullptr});

  const int64_t count = grid.index_BT.size(0);
  const int64_t keys = memory.kv.empty() ? 0 : memory.kv[0].key_BGKE.size(2);
  const int64_t columns = keys + grid.index_BT.size(1);
  const Tensor rows_B = at::tensor(rows, at::kLong).to(backbone.device());
  KvCache cache(backbone.config(), count, columns + options.max_new_tokens, backbone.compute_dtype(),
                backbone.device());
  fill_cache(cache, read.kv, grid, memory, rows_B);
  cache.advance(columns);
  Tensor mask_BS = grid.mask_BT.to(backbone.device());
  if (keys > 0) mask_BS = at::cat({memory.mask_BK.to(backbone.device()).index_select(0, rows_B), mask_BS}, 1);
  std::vector<int64_t> lengths;
  for (const Tokens& prompt : prompts) lengths.push_back(static_cast<int64_t>(prompt.size()));
  const Tensor position_B = memory.next_position_B.to(backbone.device()).index_select(0, rows_B) +
                            at::tensor(lengths, at::kLong).to(backbone.device());
  const Tensor last_BD = read.hidden[0].index_select(0, grid.last_B.to(backbone.device()));
  Decoder decoder(backbone, {std::move(cache), mask_BS, position_B, backbone.logits(last_BD)}, options);
  const Clock::time_point prefilled = Clock::now();
  GenerateResult result = decoder.run();
  result.prefill_seconds = seconds_between(start, prefilled);
  result.decode_seconds = seconds_between(prefilled, Clock::now());
  if (!targets.empty()) result.nll = mean_nll(backbone, reading, grouped, read.hidden[0], prompts, targets);
  return result;
}

GenerateResult generate(const Backbone& backbone, const std::vector<Tokens>& prompts,
                        const GenerateOptions& options) {
  const int64_t count = static_cast<int64_t>(prompts.size());
  // A memory without head or slots for every prompt: nothing is shared, so each is plain causal attention.
  Memory nothing;
  nothing.head_ids_BP = at::zeros({count, 0}, at::kLong);
  nothing.mask_BK = at::zeros({count, 0}, at::kBool);
  number_densely(nothing, 0);
  std::vector<int64_t> rows(count);
  std::iota(rows.begin(), rows.end(), 0);
  return generate(backbone, nothing, rows, prompts, options);
}

GenerateResult generate_padded(const Backbone& backbone, const Tensor& embeds_BTD, const Tensor& mask_BT,
                               const Tensor& positions_BT, const GenerateOptions& options) {
  const at::NoGradGuard no_grad;
  const int64_t batch = embeds_BTD.size(0), columns = embeds_BTD.size(1);
  const Tensor mask = mask_BT.defined() ? mask_BT : at::ones({batch, columns}, at::kBool);
  CTXC_CHECK(columns > 0 && mask.select(1, columns - 1).all().item<bool>(), ErrorKind::kInput,
             "pad on the left", "generate: a row ends in padding");
  KvCache cache(backbone.config(), batch, columns + options.max_new_tokens, backbone.compute_dtype(),
                backbone.device());
  const Tensor hidden_BTD = backbone.forward_padded(embeds_BTD, mask, positions_BT, {}, &cache).hidden[0];
  const Tensor logits_BV = backbone.logits(hidden_BTD.select(1, columns - 1));
  const Tensor position_B = positions_BT.select(1, columns - 1) + 1;
  return Decoder(backbone, {std::move(cache), mask, position_B, logits_BV}, options).run();
}

Tensor padded_tokens(const GenerateResult& result, int64_t pad) {
  Tensor tokens_BT = at::full({static_cast<int64_t>(result.tokens.size()), result.steps}, pad, at::kLong);
  for (size_t row = 0; row < result.tokens.size(); ++row)
    for (size_t i = 0; i < result.tokens[row].size(); ++i)
      tokens_BT.mutable_data_ptr<int64_t>()[row * result.steps + i] = result.tokens[row][i];
  return tokens_BT;
}

std::vector<int64_t> ending_ids(const Backbone& backbone, const Prompt& prompt) {
  std::vector<int64_t> ids = backbone.config().eos;
  if (std::find(ids.begin(), ids.end(), prompt.eos()) == ids.end()) ids.push_back(prompt.eos());
  return ids;
}

}  // namespace ctxc
