// What a memory under construction is asked (lcc.md sections 4 and 5), and what the teacher says to it:
//   queries   random instructions with the answers the base writes with the full context in view, and on
//   request the
//             texts it would go on with behind the context, without any form of a chat
//             (queries.continuations)
//   pieces    parts of the context, asked for again; their starts are drawn anew in every epoch
//   probes    short spans of the context that no piece starts at: the validation of memory
// The teacher's final hidden states at the positions that predict a target are computed once per item.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "data/prompt.h"
#include "data/query_bank.h"
#include "model/distill.h"
#include "model/per_document.h"

namespace ctxc {

struct ReadItem {
  Tokens prompt, target;  ///< both read after the memory; the target is supervised
  Tensor teacher_ND;      ///< hidden states L that predict the target; undefined until they are needed
  TopRows top = {};       ///< what is kept of them with teacher.store: topk
};

/// [first, end) of the context.
struct Piece {
  int64_t begin = 0, end = 0;
  bool operator<(const Piece& other) const {
    return std::pair(begin, end) < std::pair(other.begin, other.end);
  }
  bool operator==(const Piece& other) const { return begin == other.begin && end == other.end; }
};

/// Tokens in front of a piece or probe that its request quotes.
constexpr int64_t kQuoted = 8;

/// At most `count` distinct spans of min(32, L / 4) tokens, begin >= 8. Never more than half the places there
/// are: of a text below 30 tokens the others are left to the starts of pieces.
std::vector<Piece> draw_probes(int64_t length, int64_t count, uint64_t seed);

/// Ways to cut a context into pieces of `chunk` tokens that cover every token once: first [0, phase), then
/// from the phase on; at most 16 phases from 8 up, none of whose starts is a probe's. `chunk` 0: the whole
/// context in parts of at most 1024, one way; a first part some tokens shorter where a probe starts at a cut.
std::vector<std::vector<Piece>> cut_pieces(int64_t length, int64_t chunk, uint64_t seed,
                                           const std::vector<Piece>& probes);

/// Endless stream of items, epoch after epoch, that never gives two equal ones in one batch.
class ItemStream {
 public:
  explicit ItemStream(std::function<std::vector<int64_t>(int64_t epoch)> epoch) : epoch_(std::move(epoch)) {}
  /// Fewer than `count` only where an epoch holds fewer different items.
  std::vector<int64_t> take(int64_t count);

 private:
  std::function<std::vector<int64_t>(int64_t)> epoch_;
  int64_t next_epoch_ = 0;
  std::deque<int64_t> waiting_;
};

struct ItemOptions {
  uint64_t seed = 0;
  int64_t max_new = 128;  ///< longest answer to a random query
  int64_t probes = 8;
  int64_t continuations = 0;  ///< among the queries to train on
};

/// Most tokens, request and answer, of what asks for a context again.
int64_t longest_request(const Prompt& prompt, const ReconRecipe& recon, const Tokens& context,
                        ItemOptions options);

class CompileItems {
 public:
  /// Of a document that CompileInputs let pass (train/compile_inputs.h).
  CompileItems(const Backbone& backbone, const Prompt& prompt, const Document& document,
               const CompileRecipe& recipe, const QueryDraw& queries, ItemOptions options);

  /// Lets the teacher answer the held-out queries, with `all` those to train on as well; `progress(done, of)`
  /// after every batch.
  void answer(bool all, const std::function<void(int64_t, int64_t)>& progress);

  const std::vector<int64_t>& train_queries() const { return train_; }
  const std::vector<int64_t>& held_out() const { return held_out_; }
  const std::vector<int64_t>& probes() const { return probes_; }
  /// Items of an epoch in a drawn order.
  std::vector<int64_t> pieces_of(int64_t epoch);
  std::vector<int64_t> queries_of(int64_t epoch) const;
  int64_t epoch_items() const;  ///< reconstruction and queries together

  const ReadItem& item(int64_t index) const { return items_[static_cast<size_t>(index)]; }
  /// The item with its teacher rows: hidden states …
  const ReadItem& taught(int64_t index);
  /// … or for training what teacher.store says.
  const ReadItem& trained_on(int64_t index);
  /// The request for the context from its beginning.
  Tokens repeat_request() const;
  /// What the teacher reads.
  const Memory& teacher() const { return teacher_; }

 private:
  int64_t add(Tokens prompt, Tokens target);
  /// The `count` likeliest tokens behind the context, special ones left out.
  Tokens next_tokens(int64_t count) const;
  int64_t piece_item(const Piece& piece);

  const Backbone& backbone_;
  const Prompt& prompt_;
  const Document& document_;
  CompileRecipe recipe_;
  ItemOptions options_;
  Memory teacher_;
  std::deque<ReadItem> items_;  ///< pointers into it stay good
  int64_t queries_ = 0;         ///< items before this one are queries
  std::vector<int64_t> train_, held_out_, probes_;
  std::vector<std::vector<Piece>> phases_;
  std::map<Piece, int64_t> piece_items_;
};

/// Hidden states L that predict the targets of these items after a memory, [M, D], item after item.
Tensor predicting_states(const Backbone& backbone, const Memory& memory,
                         const std::vector<const ReadItem*>& items, const Adapters* adapters = nullptr);

/// Means over the target positions of every item of values [M] that stand item after item, [N] float64.
Tensor item_means(const Tensor& value_M, const std::vector<const ReadItem*>& items);

/// What a memory makes of items: the forward KL from the teacher (undefined unless all items have its rows)
/// and the negative log-likelihood of the target, means over every item's positions, [N] float64.
struct ItemNumbers {
  Tensor kl_N, nll_N;
};
ItemNumbers measure_items(const Backbone& backbone, const Memory& memory,
                          const std::vector<const ReadItem*>& items, const Tensor& head_VD, double tau = 1);
/// The same from the states that predict their targets (predicting_states), for several teachers of one
/// reading.
ItemNumbers measure_states(const Tensor& student_MD, const std::vector<const ReadItem*>& items,
                           const Tensor& head_VD, double tau = 1);

}  // namespace ctxc
