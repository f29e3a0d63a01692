#include "model/blocks/slice_memory.h"

#include <algorithm>
#include <bit>

#include "core/error.h"

namespace ctxc {
namespace {

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

LatentBlock joined(const std::vector<LatentBlock>& blocks) {
  std::vector<Tensor> y, position, size;
  for (const LatentBlock& block : blocks) {
    y.push_back(block.y_KD);
    position.push_back(block.position_K);
    size.push_back(block.size_K);
  }
  return {at::cat(y), at::cat(position), at::cat(size), 0};
}

const Tensor& entry(const State& state, const std::string& name) {
  const auto found = state.find(name);
  CTXC_CHECK(found != state.end(), ErrorKind::kUsage, "give the state that the method's last call returned",
             "memory: the state holds no '{}' (found {} entries)", name, state.size());
  return found->second;
}

}  // namespace

int64_t MemoryRule::buffer_vectors(int64_t tokens, int64_t count) const {
  const int64_t budget = ceil_div(tokens, ratio);
  if (slices == int64_t{0}) return std::min(state, budget);
  return count > 1 ? std::min(state, budget / 4) : 0;
}

int64_t MemoryRule::vectors_for(int64_t tokens, int64_t slice_tokens) const {
  const int64_t count = ceil_div(tokens, slice_tokens), whole = slice_tokens / ratio;
  const int64_t last = ceil_div(tokens - std::max<int64_t>(count - 1, 0) * slice_tokens, ratio);
  int64_t slots = 0;
  if (logarithmic) {
    // One block for each bit of the number of slices; the last slice is in the block of the lowest one.
    int64_t level = 0;
    int64_t size = last;
    for (; count > 0 && ((count >> level) & 1) == 0; ++level) size = ceil_div(whole + size, 2);
    if (count > 0) slots = size + (std::popcount(static_cast<uint64_t>(count)) - 1) * whole;
  } else {
    const int64_t kept = std::min(count, slices.value_or(count));
    if (kept > 0) slots = (kept - 1) * whole + last;
  }
  const int64_t buffer = buffer_vectors(tokens, count);
  return std::min(slots + buffer, ceil_div(tokens, ratio));
}

SliceMemory::SliceMemory(MemoryRule rule, int64_t batch, const PairPool* merge, const State& in,
                         int64_t slice_tokens)
    : rule_(rule),
      merge_(merge),
      tokens_(static_cast<size_t>(batch), 0),
      slices_(tokens_),
      updates_(tokens_),
      blocks_(static_cast<size_t>(batch)) {
  if (!in.empty()) load(in, slice_tokens);
}

void SliceMemory::load(const State& in, int64_t slice_tokens) {
  const Tensor tokens = entry(in, "tokens").to(at::kCPU, at::kLong).contiguous();
  CTXC_CHECK(tokens.dim() == 1 && tokens.size(0) == static_cast<int64_t>(tokens_.size()), ErrorKind::kUsage,
             "continue with the texts the state was made from",
             "memory: the state is of another batch (found {} texts, expected {})", tokens.numel(),
             tokens_.size());
  for (size_t row = 0; row < tokens_.size(); ++row) {
    tokens_[row] = tokens.const_data_ptr<int64_t>()[row];
    CTXC_CHECK(tokens_[row] % slice_tokens == 0, ErrorKind::kUsage,
               "give a text in parts of a multiple of compressor.chunk tokens; only the last may be shorter",
               "memory: the text in front ended inside a slice (found {} tokens, expected a multiple of {})",
               tokens_[row], slice_tokens);
    slices_[row] = updates_[row] = tokens_[row] / slice_tokens;
  }
  if (rule_.state > 0) buffer_BMD = entry(in, "buffer");
  const Tensor blocks = entry(in, "blocks").to(at::kCPU, at::kLong);
  const Tensor &y = entry(in, "latents"), &position = entry(in, "positions"), &size = entry(in, "sizes");
  const auto table = blocks.accessor<int64_t, 2>();  // row, level, latents
  int64_t first = 0;
  for (int64_t i = 0; i < blocks.size(0); ++i) {
    const int64_t last = first + table[i][2];
    blocks_.at(static_cast<size_t>(table[i][0]))
        .push_back({y.slice(0, first, last), position.slice(0, first, last), size.slice(0, first, last),
                    table[i][1]});
    first = last;
  }
}

State SliceMemory::state() const {
  std::vector<LatentBlock> all;
  std::vector<int64_t> table;
  for (size_t row = 0; row < blocks_.size(); ++row)
    for (const LatentBlock& block : blocks_[row]) {
      table.insert(table.end(), {static_cast<int64_t>(row), block.level, block.y_KD.size(0)});
      all.push_back(block);
    }
  const auto count = static_cast<int64_t>(all.size());
  State state{{"tokens", at::tensor(tokens_, at::kLong)},
              {"blocks", at::tensor(table, at::kLong).view({count, 3})}};
  if (buffer_BMD.defined()) state["buffer"] = buffer_BMD.detach();
  LatentBlock joint;
  if (all.empty())
    joint = {at::zeros({0, 1}), at::zeros({0}), at::zeros({0}), 0};
  else
    joint = joined(all);
  state["latents"] = joint.y_KD.detach();
  state["positions"] = joint.position_K;
  state["sizes"] = joint.size_K;
  return state;
}

Tensor SliceMemory::next_update(const std::vector<int64_t>& lengths, const Tensor& like) {
  for (size_t row = 0; row < lengths.size(); ++row) updates_[row] += lengths[row] > 0;
  return at::tensor(updates_, at::kLong).to(like.device(), at::kFloat).clamp_min(1);
}

LatentBlock SliceMemory::merge_pairs(const std::vector<LatentBlock>& blocks, int64_t level) const {
  const LatentBlock joint = joined(blocks);
  const Places places{joint.position_K.unsqueeze(0),
                      at::ones({1, joint.y_KD.size(0)}, joint.y_KD.options().dtype(at::kBool)),
                      joint.size_K.unsqueeze(0)};
  const Places merged = merged_places(places);
  return {merge_->forward(joint.y_KD.unsqueeze(0), places).squeeze(0).to(at::kFloat),
          merged.position.squeeze(0), merged.size.squeeze(0), level};
}

void SliceMemory::add(const TextSlice& slice, const Tensor& y_BKD, const Places& places) {
  for (size_t b = 0; b < blocks_.size(); ++b) {
    if (slice.lengths[b] == 0) continue;
    const auto row = static_cast<int64_t>(b);
    // Places count from the slice's last token; kept ones from the text's first.
    const double begin = static_cast<double>(tokens_[b] + slice.lengths[b] - 1);
    tokens_[b] += slice.lengths[b];
    ++slices_[b];
    if (rule_.slices == int64_t{0}) continue;
    std::vector<LatentBlock>& blocks = blocks_[b];
    const int64_t count = ceil_div(slice.lengths[b], rule_.ratio);
    blocks.push_back({y_BKD[row].slice(0, 0, count), places.position[row].slice(0, 0, count) + begin,
                      places.size[row].slice(0, 0, count), 0});
    if (rule_.logarithmic)
      for (int merges = std::countr_zero(static_cast<uint64_t>(slices_[b])); merges > 0; --merges) {
        const LatentBlock newer = blocks.back();
        blocks.pop_back();
        blocks.back() = merge_pairs({blocks.back(), newer}, newer.level + 1);
      }
    if (rule_.slices && static_cast<int64_t>(blocks.size()) > *rule_.slices) blocks.erase(blocks.begin());
  }
}

LatentBlock SliceMemory::row_latents(size_t row) const {
  LatentBlock all = joined(blocks_[row]);
  const int64_t buffer = rule_.buffer_vectors(tokens_[row], slices_[row]);
  const int64_t excess = buffer + all.y_KD.size(0) - ceil_div(tokens_[row], rule_.ratio);
  if (excess <= 0) return all;
  const auto cut = [&](int64_t first, int64_t last) {
    return LatentBlock{all.y_KD.slice(0, first, last), all.position_K.slice(0, first, last),
                       all.size_K.slice(0, first, last), 0};
  };
  return joined({merge_pairs({cut(0, 2 * excess)}, 0), cut(2 * excess, all.y_KD.size(0))});
}

SliceMemory::View SliceMemory::view() const {
  std::vector<LatentBlock> rows;
  std::vector<int64_t> buffers;
  int64_t longest = 0, most = 0;
  for (size_t row = 0; row < blocks_.size(); ++row) {
    rows.push_back(blocks_[row].empty() ? LatentBlock{} : row_latents(row));
    if (rows.back().y_KD.defined()) longest = std::max(longest, rows.back().y_KD.size(0));
    buffers.push_back(rule_.buffer_vectors(tokens_[row], slices_[row]));
    most = std::max(most, buffers.back());
  }
  View view;
  if (most > 0) {
    const Tensor column = at::arange(most, buffer_BMD.options().dtype(at::kLong).requires_grad(false));
    view.buffer_mask_BM =
        column.unsqueeze(0) < at::tensor(buffers, at::kLong).to(column.device()).unsqueeze(1);
  }
  std::vector<Tensor> y, position, mask;
  Tensor like;
  for (const LatentBlock& row : rows)
    if (row.y_KD.defined()) like = row.y_KD;
  if (!like.defined()) return view;
  for (const LatentBlock& row : rows) {
    const int64_t count = row.y_KD.defined() ? row.y_KD.size(0) : 0, missing = longest - count;
    const auto options = like.options().requires_grad(false);
    const Tensor own = row.y_KD.defined() ? row.y_KD : at::zeros({0, like.size(1)}, options);
    const Tensor places = row.y_KD.defined() ? row.position_K : at::zeros({0}, options);
    y.push_back(at::constant_pad_nd(own, {0, 0, 0, missing}));
    position.push_back(at::constant_pad_nd(places, {0, missing}));
    mask.push_back(at::arange(longest, options) < static_cast<double>(count));
  }
  view.y_BKD = at::stack(y);
  view.position_BK = at::stack(position);
  view.mask_BK = at::stack(mask);
  return view;
}

Memory lay_out_memory(const Context& context, const CompressorSetup& setup, const SliceMemory& memory,
                      bool sink, const SlotHead* slot_head, const SlotHead* state_head, bool spread) {
  const SliceMemory::View view = memory.view();
  std::vector<Tensor> slots, masks, positions;
  if (view.buffer_mask_BM.defined()) {
    const Tensor read_BMD = memory.buffer_BMD.slice(1, 0, view.buffer_mask_BM.size(1));
    slots.push_back(state_head->forward(read_BMD, context.backbone()));
    masks.push_back(view.buffer_mask_BM);
  }
  if (view.y_BKD.defined()) {
    slots.push_back(slot_head->forward(view.y_BKD, context.backbone()));
    masks.push_back(view.mask_BK);
    if (spread) positions.push_back(view.position_BK);
  }
  return lay_out_slots(context, setup, sink, slots, masks, positions);
}

}  // namespace ctxc
