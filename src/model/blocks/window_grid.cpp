#include "model/blocks/window_grid.h"

#include <algorithm>

namespace ctxc {

int64_t WindowShape::run_of(int64_t position) const {
  const int64_t base = window / runs(), longer = window % runs();
  const int64_t in_longer = longer * (base + 1);
  return position < in_longer ? position / (base + 1) : longer + (position - in_longer) / base;
}

int64_t WindowShape::slots_for(int64_t tokens) const {
  const int64_t rest = tokens % window;
  return tokens / window * runs() + (rest == 0 ? 0 : run_of(rest - 1) + 1);
}

WindowGrid::WindowGrid(const std::vector<GridSpan>& spans, int64_t batch_size, int64_t packed_tokens,
                       WindowShape shape, bool keep_empty, const at::Device& device)
    : batch(batch_size) {
  const int64_t w = shape.window, k = shape.runs();
  std::vector<int64_t> used(batch, 0);  // windows of each row so far
  std::vector<int64_t> column, row,
      first;  // of each window; first = packed index of position 0 (may lie before the text)
  std::vector<const GridSpan*> owner;
  for (const GridSpan& span : spans) {
    const int64_t windows = (span.positions() + w - 1) / w;
    for (int64_t i = 0; i < windows; ++i) {
      const bool empty = span.length == 0 || (i + 1) * w <= span.lead;
      if (empty && !keep_empty) continue;
      column.push_back(used[span.row] + i);
      row.push_back(span.row);
      first.push_back(span.offset - span.lead + i * w);
      owner.push_back(&span);
    }
    used[span.row] += windows;
    columns = std::max(columns, used[span.row]);
  }

  const int64_t n = static_cast<int64_t>(row.size());
  token_NW = at::full({n, w}, packed_tokens, at::kLong);
  slot_P = at::zeros({packed_tokens}, at::kLong);
  count_NK = at::zeros({n, k}, at::kFloat);
  place_N = at::empty({n}, at::kLong);
  int64_t *token = token_NW.mutable_data_ptr<int64_t>(), *slot = slot_P.mutable_data_ptr<int64_t>(),
          *place = place_N.mutable_data_ptr<int64_t>();
  float* count = count_NK.mutable_data_ptr<float>();
  for (int64_t i = 0; i < n; ++i) {
    place[i] = row[i] * columns + column[i];
    const int64_t begin = std::max(first[i], owner[i]->offset);
    const int64_t end = std::min(first[i] + w, owner[i]->offset + owner[i]->length);
    for (int64_t p = begin; p < end; ++p) {
      const int64_t run = shape.run_of(p - first[i]);
      token[i * w + p - first[i]] = p;
      slot[p] = i * k + run;
      count[i * k + run] += 1;
    }
  }
  real_NW = token_NW.ne(packed_tokens).to(device);
  token_NW = token_NW.to(device);
  slot_P = slot_P.to(device);
  count_NK = count_NK.to(device);
  place_N = place_N.to(device);
}

Tensor WindowGrid::spread(const Tensor& per_window) const {
  auto shape = per_window.sizes().vec();
  shape[0] = batch * columns;
  // Windows are in place order: a grid without gaps is a view.
  const Tensor result = windows() == batch * columns
                            ? per_window
                            : at::zeros(shape, per_window.options()).index_copy(0, place_N, per_window);
  shape[0] = columns;
  shape.insert(shape.begin(), batch);
  return result.view(shape);
}

}  // namespace ctxc
