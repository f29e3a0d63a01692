#include "model/reading.h"

#include "core/error.h"
#include "model/device.h"

namespace ctxc {
namespace {

/// The memory's bookkeeping on the host.
struct HostMemory {
  Tensor head_ids_BP, mask_BK, position_BK, next_position_B;
  int64_t head = 0, key_columns = 0;

  explicit HostMemory(const Memory& memory)
      : head_ids_BP(memory.head_ids_BP.to(at::kCPU, at::kLong).contiguous()),
        mask_BK(memory.mask_BK.to(at::kCPU).contiguous()),
        position_BK(memory.position_BK.to(at::kCPU, at::kLong).contiguous()),
        next_position_B(memory.next_position_B.to(at::kCPU, at::kLong).contiguous()),
        head(head_ids_BP.size(1)),
        key_columns(memory.kv.empty() ? 0 : memory.kv[0].key_BGKE.size(2)) {}
};

/// Head ids, slots and texts of all groups, in packed order.
struct Layout {
  std::vector<int64_t> text_ids, text_sizes, slot_index, slot_sizes, positions;
};

void lay_out(const HostMemory& memory, const Continuations& group, bool has_slots, Layout& layout,
             PackedReading& reading) {
  const int64_t row = group.row, slots = memory.mask_BK.size(1);
  CTXC_CHECK(row >= 0 && row < memory.mask_BK.size(0), ErrorKind::kInternal, "",
             "reading: no such memory (found row {}, expected 0 to {})", row, memory.mask_BK.size(0) - 1);
  const int64_t* head_ids = memory.head_ids_BP.const_data_ptr<int64_t>() + row * memory.head;
  const bool* valid = memory.mask_BK.const_data_ptr<bool>() + row * slots;
  const int64_t* slot_positions = memory.position_BK.const_data_ptr<int64_t>() + row * slots;
  const int64_t next = memory.next_position_B.const_data_ptr<int64_t>()[row];

  reading.start.push_back(static_cast<int64_t>(layout.positions.size()));
  for (int64_t i = 0; i < memory.head; ++i) {
    layout.text_ids.push_back(head_ids[i]);
    layout.positions.push_back(i);
  }
  layout.text_sizes.push_back(memory.head);
  int64_t kept = 0;
  for (int64_t slot = 0; has_slots && slot < slots; ++slot) {
    if (!valid[slot]) continue;
    layout.slot_index.push_back(row * slots + slot);
    layout.positions.push_back(slot_positions[slot]);
    ++kept;
  }
  layout.slot_sizes.push_back(kept);
  reading.prefix.push_back(memory.head + kept);
  int64_t tokens = 0;
  reading.first.emplace_back();
  for (const Tokens& text : group.texts) {
    reading.first.back().push_back(static_cast<int64_t>(layout.positions.size()));
    for (size_t i = 0; i < text.size(); ++i) {
      layout.text_ids.push_back(text[i]);
      layout.positions.push_back(next + static_cast<int64_t>(i));
    }
    tokens += static_cast<int64_t>(text.size());
  }
  layout.text_sizes.push_back(tokens);
}

/// bool [T, keys + T]: the prefix is causal, every text sees the memory's keys, the prefix and its own
/// beginning.
Tensor block_mask(int64_t keys, int64_t prefix, const std::vector<Tokens>& texts) {
  int64_t total = prefix;
  for (const Tokens& text : texts) total += static_cast<int64_t>(text.size());
  Tensor mask = at::zeros({total, keys + total}, at::kBool);
  mask.narrow(0, prefix, total - prefix).narrow(1, 0, keys + prefix).fill_(true);
  mask.narrow(0, 0, prefix).narrow(1, keys, prefix).fill_(true).tril_();
  int64_t begin = prefix;
  for (const Tokens& text : texts) {
    const int64_t length = static_cast<int64_t>(text.size());
    mask.narrow(0, begin, length).narrow(1, keys + begin, length).fill_(true).tril_();
    begin += length;
  }
  return mask;
}

/// Rows of head, slots and texts, one after another.
Tensor gather_embeddings(const Backbone& backbone, const Memory& memory, const Layout& layout) {
  const Tensor text_ED = backbone.embed(at::tensor(layout.text_ids, at::kLong));
  if (layout.slot_index.empty()) return text_ED;
  const auto texts = text_ED.split_with_sizes(layout.text_sizes, 0);
  const Tensor index = to_device(at::tensor(layout.slot_index, at::kLong), memory.slots_BKD.device());
  const auto slots = memory.slots_BKD.flatten(0, 1)
                         .index_select(0, index)
                         .to(text_ED.options())
                         .split_with_sizes(layout.slot_sizes, 0);
  std::vector<Tensor> pieces;
  for (size_t group = 0; group < slots.size(); ++group)
    pieces.insert(pieces.end(), {texts[2 * group], slots[group], texts[2 * group + 1]});
  return at::cat(pieces, 0);
}

}  // namespace

PackedReading pack_reading(const Backbone& backbone, const Memory& memory,
                           const std::vector<Continuations>& groups) {
  const HostMemory host(memory);
  const bool has_kv = host.key_columns > 0;
  PackedReading reading;
  Layout layout;
  for (const Continuations& group : groups) lay_out(host, group, memory.slots_BKD.defined(), layout, reading);

  reading.rows.embeds_PD = gather_embeddings(backbone, memory, layout);
  reading.rows.positions_P = to_device(at::tensor(layout.positions, at::kLong), backbone.device());
  reading.rows.prefix = memory.kv;
  if (has_kv) reading.rows.prefix_mask_BK = memory.mask_BK;
  for (size_t index = 0; index < groups.size(); ++index) {
    const auto& texts = groups[index].texts;
    const int64_t prefix = reading.prefix[index];
    Segment segment{
        .length = layout.text_sizes[2 * index] + layout.slot_sizes[index] + layout.text_sizes[2 * index + 1],
        .mask_TS = {},
        .prefix_row = has_kv ? groups[index].row : -1};
    // A single text without keys in front is plain causal attention, which has the faster kernel.
    if (texts.size() > 1 || (has_kv && prefix > 0))
      segment.mask_TS = block_mask(host.key_columns, prefix, texts).to(backbone.device());
    reading.rows.segments.push_back(std::move(segment));
  }
  return reading;
}

void append_predicting(const PackedReading& reading, size_t group, size_t text, size_t prompt, size_t count,
                       std::vector<int64_t>& indices) {
  const int64_t first = reading.first[group][text] + static_cast<int64_t>(prompt);
  for (size_t i = 0; i < count; ++i) {
    // Before the first token of a text stands the end of head and slots.
    const bool follows_prefix = prompt + i == 0;
    indices.push_back(follows_prefix ? reading.start[group] + reading.prefix[group] - 1
                                     : first + static_cast<int64_t>(i) - 1);
  }
}

}  // namespace ctxc
