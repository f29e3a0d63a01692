#include <algorithm>
#include <numeric>

#include "core/error.h"
#include "model/budget.h"
#include "model/compressor.h"
#include "model/device.h"
#include "model/hidden_cache.h"

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
  // Embeddings know no position.
  if (piece == 0 && std::any_of(indices.begin(), indices.end(), [](int64_t index) { return index > 0; }))
    for (const int64_t length : lengths_) check_window(length, 0, backbone_.config());
  HiddenRequest request{.indices = {}, .layers = layers, .piece = piece};
  for (int64_t index : indices)
    if (!cache_.count(index) &&
        std::find(request.indices.begin(), request.indices.end(), index) == request.indices.end())
      request.indices.push_back(index);
  if (!request.indices.empty()) {
    std::vector<size_t> all(lengths_.size());
    std::iota(all.begin(), all.end(), 0);
    const std::vector<Tensor> states = disk_ ? cached(request) : compute(request, all);
    for (size_t i = 0; i < states.size(); ++i) cache_[request.indices[i]] = states[i];
  }
  std::vector<Tensor> hidden;
  for (int64_t index : indices) hidden.push_back(cache_.at(index));
  return hidden;
}

std::vector<Tensor> Context::compute(const HiddenRequest& request, const std::vector<size_t>& rows) const {
  const at::AutoGradMode grad(backbone_.trainable() && at::GradMode::is_enabled());
  const ForwardOptions options{.collect = request.indices, .layers = request.layers};
  PackedRows packed{.embeds_PD = {}, .positions_P = {}, .segments = {}, .prefix = {}, .prefix_mask_BK = {}};
  std::vector<Tensor> positions, ids;
  for (const size_t row : rows) {
    const int64_t length = lengths_[row];
    ids.push_back(ids_P_.slice(0, offsets_[row], offsets_[row] + length));
    for (int64_t first = 0; first<length; first += request.piece> 0 ? request.piece : length) {
      const int64_t tokens = request.piece > 0 ? std::min(request.piece, length - first) : length;
      positions.push_back(at::arange(tokens, ids_P_.options()));
      packed.segments.push_back({.length = tokens, .mask_TS = {}, .prefix_row = -1});
    }
  }
  packed.embeds_PD = rows.size() == lengths_.size() ? embed() : backbone_.embed(at::cat(ids));
  packed.positions_P = positions.empty() ? ids_P_ : at::cat(positions);
  return backbone_.forward(packed, options).hidden;
}

std::vector<Tensor> Context::cached(const HiddenRequest& request) const {
  const Tensor ids_P = ids_P_.to(at::kCPU).contiguous();
  const auto* bytes = reinterpret_cast<const char*>(ids_P.const_data_ptr<int64_t>());
  std::vector<std::string> names;
  std::vector<std::vector<Tensor>> states(lengths_.size());
  std::vector<size_t> missing;
  for (size_t row = 0; row < lengths_.size(); ++row) {
    names.push_back(sha256_hex(std::string_view(bytes + sizeof(int64_t) * static_cast<size_t>(offsets_[row]),
                                                sizeof(int64_t) * static_cast<size_t>(lengths_[row]))));
    if (lengths_[row] > 0) states[row] = disk_->find(request, names[row]);
    if (lengths_[row] > 0 && states[row].empty()) missing.push_back(row);
  }
  if (!missing.empty()) {
    const std::vector<Tensor> fresh = compute(request, missing);
    int64_t first = 0;
    for (const size_t row : missing) {
      for (const Tensor& layer : fresh)
        states[row].push_back(layer.slice(0, first, first + lengths_[row]).to(at::kBFloat16));
      first += lengths_[row];
      disk_->store(request, names[row], states[row]);
    }
  }
  std::vector<Tensor> joined;
  for (size_t layer = 0; layer < request.indices.size(); ++layer) {
    std::vector<Tensor> parts{embed().slice(0, 0, 0)};
    for (const auto& row : states)
      if (!row.empty())
        parts.push_back(to_device(row[layer], backbone_.device()).to(backbone_.compute_dtype()));
    joined.push_back(at::cat(parts));
  }
  return joined;
}

}  // namespace ctxc
