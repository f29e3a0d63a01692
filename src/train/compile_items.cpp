#include "train/compile_items.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "model/distill.h"
#include "model/generate.h"
#include "model/reading.h"

namespace ctxc {
namespace {

constexpr int64_t kPhases = 16;       // ways of cutting that are used, so that teacher rows can be kept
constexpr int64_t kWholePart = 1024;  // parts of a context that is asked for as a whole
constexpr int64_t kAnswerBatch = 16;

std::vector<int64_t> permuted(const std::vector<int64_t>& items, uint64_t seed, const char* stream,
                              int64_t epoch) {
  std::vector<int64_t> order;
  const KeyedPermutation permutation(items.size(), seed, stream, static_cast<uint64_t>(epoch));
  for (uint64_t i = 0; i < items.size(); ++i) order.push_back(items[permutation[i]]);
  return order;
}

/// [0, phase) and then pieces of `chunk`; a rest too short to be asked for joins the piece before it.
std::vector<Piece> cut(int64_t length, int64_t chunk, int64_t phase) {
  std::vector<Piece> pieces = {{0, std::min(phase, length)}};
  for (int64_t begin = phase; begin < length; begin += chunk) {
    const int64_t end = std::min(begin + chunk, length);
    if (end - begin < kQuoted)
      pieces.back().end = end;
    else
      pieces.push_back({begin, end});
  }
  return pieces;
}

Tokens slice(const Tokens& tokens, int64_t begin, int64_t end) {
  return {tokens.begin() + begin, tokens.begin() + end};
}

/// What asks for a piece of the context.
Tokens request_for(const Prompt& prompt, const ReconRecipe& recon, const Tokens& context,
                   const Piece& piece) {
  if (piece.begin == 0) return prompt.query_ids(recon.prompt, Tokens{});
  const int64_t quoted = std::max<int64_t>(0, piece.begin - kQuoted);
  return prompt.query_ids(recon.continue_prompt, slice(context, quoted, piece.begin));
}

}  // namespace

std::vector<Piece> draw_probes(int64_t length, int64_t count, uint64_t seed) {
  const int64_t span = std::min<int64_t>(32, length / 4), places = length - span - kQuoted + 1;
  std::vector<Piece> probes;
  if (span < 1 || places < 1) return probes;
  const KeyedPermutation order(static_cast<uint64_t>(places), seed, "probes");
  for (int64_t i = 0; i < std::min(count, (places + 1) / 2); ++i) {
    const int64_t begin = kQuoted + static_cast<int64_t>(order[static_cast<uint64_t>(i)]);
    probes.push_back({begin, begin + span});
  }
  return probes;
}

std::vector<std::vector<Piece>> cut_pieces(int64_t length, int64_t chunk, uint64_t seed,
                                           const std::vector<Piece>& probes) {
  std::set<int64_t> taken;
  for (const Piece& probe : probes) taken.insert(probe.begin);
  const auto is_free = [&](const std::vector<Piece>& pieces) {
    return std::none_of(pieces.begin(), pieces.end(),
                        [&](const Piece& piece) { return taken.count(piece.begin) > 0; });
  };
  if (chunk == 0) {
    // A probe blocks one place of the cuts, so the first that are free are close to whole parts.
    for (int64_t phase = std::min(length, kWholePart);; --phase) {
      std::vector<Piece> pieces = cut(length, kWholePart, phase);
      if (phase <= kQuoted || is_free(pieces)) return {std::move(pieces)};
    }
  }
  const int64_t size = std::min(chunk, (length + 1) / 2);
  std::vector<std::vector<Piece>> phases;
  const int64_t choices = std::max<int64_t>(0, size - kQuoted + 1);
  if (choices > 0) {
    const KeyedPermutation order(static_cast<uint64_t>(choices), seed, "pieces");
    for (int64_t i = 0; i < choices && static_cast<int64_t>(phases.size()) < kPhases; ++i) {
      std::vector<Piece> pieces =
          cut(length, size, kQuoted + static_cast<int64_t>(order[static_cast<uint64_t>(i)]));
      if (is_free(pieces)) phases.push_back(std::move(pieces));
    }
  }
  if (phases.empty()) phases.push_back({{0, length}});
  return phases;
}

std::vector<int64_t> ItemStream::take(int64_t count) {
  std::vector<int64_t> batch;
  std::deque<int64_t> passed;
  // An item that is in the batch already waits for the next one; two fresh epochs are enough to look through.
  for (int64_t fresh = 0; static_cast<int64_t>(batch.size()) < count;) {
    if (waiting_.empty()) {
      if (fresh++ == 2) break;
      const std::vector<int64_t> epoch = epoch_(next_epoch_++);
      waiting_.assign(epoch.begin(), epoch.end());
      if (epoch.empty()) break;
    }
    const int64_t item = waiting_.front();
    waiting_.pop_front();
    if (std::find(batch.begin(), batch.end(), item) == batch.end())
      batch.push_back(item);
    else
      passed.push_back(item);
  }
  waiting_.insert(waiting_.begin(), passed.begin(), passed.end());
  return batch;
}

int64_t longest_request(const Prompt& prompt, const ReconRecipe& recon, const Tokens& context,
                        ItemOptions options) {
  const int64_t length = static_cast<int64_t>(context.size());
  std::vector<Piece> pieces = draw_probes(length, options.probes, options.seed);
  const std::vector<Piece> first = cut_pieces(length, recon.chunk, options.seed, pieces)[0];
  pieces.insert(pieces.end(), first.begin(), first.end());
  int64_t longest = 0;
  for (const Piece& piece : pieces) {
    const auto request = static_cast<int64_t>(request_for(prompt, recon, context, piece).size());
    longest = std::max(longest, request + piece.end - piece.begin);
  }
  return longest;
}

CompileItems::CompileItems(const Backbone& backbone, const Prompt& prompt, const Document& document,
                           const CompileRecipe& recipe, const QueryDraw& queries, ItemOptions options)
    : backbone_(backbone),
      prompt_(prompt),
      document_(document),
      recipe_(recipe),
      options_(options),
      teacher_(kv_memory(document.frozen)) {
  for (const std::string& query : queries.train) train_.push_back(add(prompt.query_ids(query), {}));
  for (const TokenId token : next_tokens(options.continuations)) train_.push_back(add({token}, {}));
  for (const std::string& query : queries.held_out) held_out_.push_back(add(prompt.query_ids(query), {}));
  queries_ = static_cast<int64_t>(items_.size());
  const std::vector<Piece> probes = draw_probes(document.length(), options.probes, options.seed);
  for (const Piece& probe : probes) probes_.push_back(piece_item(probe));
  phases_ = cut_pieces(document.length(), recipe.recon.chunk, options.seed, probes);
  for (const Piece& piece : phases_[0]) piece_item(piece);
}

int64_t CompileItems::add(Tokens prompt, Tokens target) {
  items_.push_back({std::move(prompt), std::move(target), {}});
  return static_cast<int64_t>(items_.size()) - 1;
}

Tokens CompileItems::next_tokens(int64_t count) const {
  Tokens found;
  if (count == 0) return found;
  const at::NoGradGuard no_grad;
  const int64_t rows = document_.prefix + document_.length();
  // Read again, since the cache holds keys and values but not what the last token predicts.
  const ReadItem last{{document_.context.back()}, {document_.context.back()}, {}};
  const Tensor state_1D = predicting_states(backbone_, kv_memory(document_.first_rows(rows - 1)), {&last});
  const Tensor logits_V = backbone_.logits(state_1D)[0];
  const Tensor order_V = logits_V.argsort(/*dim=*/0, /*descending=*/true).cpu();
  const Tokenizer& tokenizer = prompt_.tokenizer();
  const int64_t* next = order_V.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < order_V.size(0) && static_cast<int64_t>(found.size()) < count; ++i)
    if (!tokenizer.is_special(static_cast<TokenId>(next[i]))) found.push_back(static_cast<TokenId>(next[i]));
  return found;
}

Tokens CompileItems::repeat_request() const {
  return prompt_.query_ids(recipe_.recon.prompt, Tokens{});
}

int64_t CompileItems::piece_item(const Piece& piece) {
  const auto found = piece_items_.find(piece);
  if (found != piece_items_.end()) return found->second;
  const Tokens& context = document_.context;
  const int64_t index =
      add(request_for(prompt_, recipe_.recon, context, piece), slice(context, piece.begin, piece.end));
  piece_items_.emplace(piece, index);
  return index;
}

std::vector<int64_t> CompileItems::pieces_of(int64_t epoch) {
  std::vector<int64_t> items;
  for (const Piece& piece : phases_[static_cast<size_t>(epoch) % phases_.size()])
    items.push_back(piece_item(piece));
  return permuted(items, options_.seed, "pieces.order", epoch);
}

std::vector<int64_t> CompileItems::queries_of(int64_t epoch) const {
  return permuted(train_, options_.seed, "queries.order", epoch);
}

int64_t CompileItems::epoch_items() const {
  return static_cast<int64_t>(train_.size() + phases_[0].size());
}

void CompileItems::answer(bool all, const std::function<void(int64_t, int64_t)>& progress) {
  GenerateOptions options;
  options.max_new_tokens = options_.max_new;
  options.eos = ending_ids(backbone_, prompt_);
  const int64_t first = all ? 0 : static_cast<int64_t>(train_.size());
  for (int64_t begin = first; begin < queries_; begin += kAnswerBatch) {
    const int64_t end = std::min(begin + kAnswerBatch, queries_);
    std::vector<Tokens> prompts;
    for (int64_t i = begin; i < end; ++i) prompts.push_back(item(i).prompt);
    const std::vector<int64_t> rows(prompts.size(), 0);
    const GenerateResult answers = generate(backbone_, teacher_, rows, prompts, options);
    for (int64_t i = begin; i < end; ++i)
      items_[static_cast<size_t>(i)].target = answers.tokens[static_cast<size_t>(i - begin)];
    progress(end - first, queries_ - first);
  }
}

const ReadItem& CompileItems::taught(int64_t index) {
  ReadItem& item = items_[static_cast<size_t>(index)];
  if (!item.teacher_ND.defined()) {
    const at::NoGradGuard no_grad;
    item.teacher_ND = predicting_states(backbone_, teacher_, {&item}).cpu();
  }
  return item;
}

const ReadItem& CompileItems::trained_on(int64_t index) {
  const TeacherRecipe& teacher = recipe_.teacher;
  if (teacher.store == "hidden") return taught(index);
  ReadItem& item = items_[static_cast<size_t>(index)];
  if (!item.top.id_MR.defined()) {
    const at::NoGradGuard no_grad;
    const Tensor states_ND = predicting_states(backbone_, teacher_, {&item});
    item.top = top_rows(states_ND, backbone_.head_VD(), recipe_.tau, teacher.top_k);
    item.top = {item.top.id_MR.cpu(), item.top.log_MS.cpu()};
  }
  return item;
}

Tensor predicting_states(const Backbone& backbone, const Memory& memory,
                         const std::vector<const ReadItem*>& items, const Adapters* adapters) {
  std::vector<Continuations> groups;
  for (const ReadItem* item : items) {
    Tokens text = item->prompt;
    text.insert(text.end(), item->target.begin(), item->target.end() - 1);
    groups.push_back({.row = 0, .texts = {std::move(text)}});
  }
  const PackedReading reading = pack_reading(backbone, memory, groups);
  std::vector<int64_t> sources;
  for (size_t i = 0; i < items.size(); ++i) {
    const int64_t first = reading.first[i][0] + static_cast<int64_t>(items[i]->prompt.size()) - 1;
    for (size_t t = 0; t < items[i]->target.size(); ++t) sources.push_back(first + static_cast<int64_t>(t));
  }
  ForwardOptions options;
  options.adapters = adapters;
  return backbone.forward(reading.rows, options)
      .hidden[0]
      .index_select(0, at::tensor(sources, at::kLong).to(backbone.device()));
}

Tensor item_means(const Tensor& value_M, const std::vector<const ReadItem*>& items) {
  std::vector<Tensor> means;
  int64_t begin = 0;
  for (const ReadItem* item : items) {
    const int64_t count = static_cast<int64_t>(item->target.size());
    means.push_back(value_M.narrow(0, begin, count).to(at::kDouble).mean());
    begin += count;
  }
  return at::stack(means);
}

ItemNumbers measure_items(const Backbone& backbone, const Memory& memory,
                          const std::vector<const ReadItem*>& items, const Tensor& head_VD, double tau) {
  const at::NoGradGuard no_grad;
  return measure_states(predicting_states(backbone, memory, items), items, head_VD, tau);
}

ItemNumbers measure_states(const Tensor& student_MD, const std::vector<const ReadItem*>& items,
                           const Tensor& head_VD, double tau) {
  const at::NoGradGuard no_grad;
  DistillRows rows;
  rows.student_MD = student_MD;
  std::vector<int64_t> targets;
  std::vector<Tensor> teacher;
  for (const ReadItem* item : items) {
    targets.insert(targets.end(), item->target.begin(), item->target.end());
    if (item->teacher_ND.defined()) teacher.push_back(item->teacher_ND);
  }
  const bool taught = teacher.size() == items.size();
  const at::Device device = rows.student_MD.device();
  const int64_t count = static_cast<int64_t>(targets.size());
  const auto weight = at::TensorOptions().dtype(at::kFloat).device(device);
  rows.target_M = at::tensor(targets, at::kLong).to(device);
  rows.teacher_MD = taught ? at::cat(teacher).to(device) : rows.student_MD;
  rows.align_M = at::full({count}, taught ? 1 : 0, weight);
  rows.ce_M = at::ones({count}, weight);
  const DistillLoss loss = distill_loss(rows, head_VD, Divergence::kForwardKl, tau);
  return {taught ? item_means(loss.align_M, items) : Tensor(), item_means(loss.nll_M, items)};
}

}  // namespace ctxc
