#include <algorithm>

#include "core/error.h"
#include "model/compressor.h"
#include "model/device.h"

namespace ctxc {
namespace {

std::vector<Tokens> contexts_of(const Batch& batch) {
  std::vector<Tokens> contexts;
  for (const Example& example : batch.examples) contexts.push_back(example.context);
  return contexts;
}

}  // namespace

Context::Context(const Backbone& backbone, std::vector<Tokens> contexts, int64_t padded_length)
    : backbone_(backbone), padded_length_(padded_length) {
  std::vector<int64_t> ids;
  int64_t longest = 0;
  for (const Tokens& context : contexts) {
    offsets_.push_back(static_cast<int64_t>(ids.size()));
    lengths_.push_back(static_cast<int64_t>(context.size()));
    longest = std::max(longest, lengths_.back());
    ids.insert(ids.end(), context.begin(), context.end());
  }
  CTXC_CHECK(padded_length == 0 || padded_length >= longest, ErrorKind::kInternal, "",
             "context: longer than the padded grid (found {} tokens, expected at most {})", longest,
             padded_length);
  if (padded_length_ == 0) padded_length_ = longest;
  ids_P_ = to_device(at::tensor(ids, at::kLong), backbone.device());
}

Context::Context(const Backbone& backbone, const Batch& batch)
    : Context(backbone, contexts_of(batch), batch.padded_length) {}

Tensor Context::embed() const {
  return backbone_.embed(ids_P_);
}

std::vector<Tensor> Context::hidden(const std::vector<int64_t>& indices, int64_t layers, int64_t piece) {
  const int64_t total_layers = backbone_.config().num_layers;
  if (layers == 0) layers = total_layers;
  // States of another truncation differ (the final norm moves), as do those of other pieces: they are not
  // kept beside each other.
  if (layers != cached_layers_ || piece != cached_piece_) cache_.clear();
  cached_layers_ = layers;
  cached_piece_ = piece;
  ForwardOptions options{.collect = {}, .layers = layers};
  for (int64_t index : indices)
    if (!cache_.count(index) &&
        std::find(options.collect.begin(), options.collect.end(), index) == options.collect.end())
      options.collect.push_back(index);
  if (!options.collect.empty()) {
    const at::AutoGradMode grad(backbone_.trainable() && at::GradMode::is_enabled());
    PackedRows rows{
        .embeds_PD = embed(), .positions_P = {}, .segments = {}, .prefix = {}, .prefix_mask_BK = {}};
    std::vector<Tensor> positions;
    for (const int64_t length : lengths_)
      for (int64_t first = 0; first<length; first += piece> 0 ? piece : length) {
        const int64_t tokens = piece > 0 ? std::min(piece, length - first) : length;
        positions.push_back(at::arange(tokens, ids_P_.options()));
        rows.segments.push_back({.length = tokens, .mask_TS = {}, .prefix_row = -1});
      }
    rows.positions_P = positions.empty() ? ids_P_ : at::cat(positions);
    const ForwardResult result = backbone_.forward(rows, options);
    for (size_t i = 0; i < options.collect.size(); ++i) cache_[options.collect[i]] = result.hidden[i];
  }
  std::vector<Tensor> hidden;
  for (int64_t index : indices) hidden.push_back(cache_.at(index));
  return hidden;
}

}  // namespace ctxc
