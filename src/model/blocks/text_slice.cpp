#include "model/blocks/text_slice.h"

#include <algorithm>

#include "core/error.h"
#include "model/blocks/affine.h"

namespace ctxc {

Places TextSlice::from_the_end(const Places& places) const {
  Places shifted = places;
  shifted.position = places.position - last_B1;
  return shifted;
}

void check_slices(int64_t chunk, int64_t ratio, int64_t width, int64_t heads, const LlamaConfig& backbone) {
  CTXC_CHECK(chunk % ratio == 0, ErrorKind::kUsage, "no slot may reach over the end of a chunk",
             "compressor.chunk: not a multiple of compressor.ratio (found {}, expected {} or {})", chunk,
             std::max(ratio, chunk / ratio * ratio), (chunk / ratio + 1) * ratio);
  CTXC_CHECK(chunk <= backbone.max_position, ErrorKind::kUsage, "the base cannot read more at a time",
             "compressor.chunk: larger than the base's window (found {}, expected at most {})", chunk,
             backbone.max_position);
  CTXC_CHECK(width % heads == 0 && width / heads % 2 == 0, ErrorKind::kUsage,
             "width must be heads times an even head width",
             "compressor.width: cannot be shared by the heads (found width {}, {} heads)", width, heads);
}

int64_t slices_of(const Context& context, int64_t length) {
  int64_t longest = 0;
  for (const int64_t tokens : context.lengths()) longest = std::max(longest, tokens);
  return (longest + length - 1) / length;
}

TextSlice cut_slice(const Context& context, const Tensor& x_PD, int64_t length, int64_t index,
                    int64_t multiple) {
  const int64_t batch = context.batch(), first = index * length, packed = x_PD.size(0);
  TextSlice slice;
  slice.index = index;
  int64_t columns = 0;
  for (const int64_t tokens : context.lengths()) {
    slice.lengths.push_back(std::clamp<int64_t>(tokens - first, 0, length));
    columns = std::max(columns, slice.lengths.back());
  }
  columns = (columns + multiple - 1) / multiple * multiple;
  Tensor packed_BN = at::full({batch, columns}, packed, at::kLong),
         last_B1 = at::zeros({batch, 1}, at::kFloat);
  for (int64_t row = 0; row < batch; ++row) {
    const int64_t tokens = slice.lengths[static_cast<size_t>(row)];
    if (tokens == 0) continue;
    const int64_t begin = context.offsets()[static_cast<size_t>(row)] + first;
    packed_BN[row].slice(0, 0, tokens) = at::arange(begin, begin + tokens, at::kLong);
    last_B1[row].fill_(tokens - 1);
  }
  slice.packed_BN = packed_BN.to(x_PD.device());
  slice.last_B1 = last_B1.to(x_PD.device());
  slice.tokens.mask = slice.packed_BN.ne(packed);
  slice.tokens.position = at::arange(columns, x_PD.options().requires_grad(false)).expand({batch, columns});
  slice.tokens.size = at::ones_like(slice.tokens.position);
  const Tensor padded_PD = at::cat({x_PD, at::zeros({1, x_PD.size(1)}, x_PD.options())});
  slice.x_BND = padded_PD.index_select(0, slice.packed_BN.flatten()).view({batch, columns, x_PD.size(1)});
  return slice;
}

Tensor embeddings_at(const Context& context, const TextSlice& slice, const Tensor& column_BK) {
  const int64_t columns = slice.packed_BN.size(1);
  const Tensor inside_BK = column_BK.lt(columns);
  const Tensor packed_BK = slice.packed_BN.gather(1, column_BK.clamp_max(std::max<int64_t>(columns - 1, 0)));
  const Tensor there_BK = inside_BK.logical_and(packed_BK.lt(context.tokens()));
  const Tensor index = packed_BK.masked_fill(there_BK.logical_not(), 0).flatten();
  const Tensor embeds_BKD = context.backbone()
                                .embed(context.ids_P().index_select(0, index))
                                .to(at::kFloat)
                                .view({column_BK.size(0), column_BK.size(1), -1});
  return unit_rms(embeds_BKD) * there_BK.to(at::kFloat).unsqueeze(-1);
}

}  // namespace ctxc
