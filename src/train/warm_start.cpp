#include "train/warm_start.h"

#include <ATen/core/grad_mode.h>

#include "core/error.h"
#include "core/text.h"
#include "model/artifact.h"
#include "model/layers.h"
#include "model/memory_record.h"

namespace ctxc {

WarmStart::WarmStart(const std::string& checkpoint, const Backbone& backbone)
    : checkpoint_(checkpoint), backbone_(backbone) {
  BackboneOptions options;
  options.device = backbone.device();
  const LoadedMethod method = load_method(checkpoint, "", {}, options);
  const std::vector<std::string> differences =
      record_differences(model_record(*method.backbone), model_record(backbone), true);
  CTXC_CHECK(differences.empty(), ErrorKind::kInput, "train the compressor on this base",
             "compressor.warm_start: {} was trained on another base: {}", checkpoint,
             join(differences, "; "));
  CTXC_CHECK(method.compressor->scope() == Scope::kAmortized, ErrorKind::kUsage,
             "name a run of comprexit, diffusion or 500x",
             "compressor.warm_start: {} compiles one context at a time, it has no slots for another",
             checkpoint);
  compressor_ = method.compressor;
  padded_length_ = method.padded_length;
}

void WarmStart::start(Document& document, int64_t most) const {
  const at::NoGradGuard no_grad;
  const int64_t length = document.length();
  Context batch(backbone_, {document.context}, padded_length_ > 0 ? std::max(padded_length_, length) : 0);
  const Memory memory = compressor_->compress(batch, {.training = false}).memory;
  const Tensor rows_K = memory.mask_BK[0].nonzero().flatten();
  const int64_t count = rows_K.size(0);
  CTXC_CHECK(count >= 1 && count <= most, ErrorKind::kUsage,
             "set compressor.ratio to the ratio the compressor was trained for",
             "compressor.warm_start: {} makes {} slots of {} tokens (expected 1 to {})", checkpoint_, count,
             length, most);
  if (memory.slots_BKD.defined()) {
    document.start_KD = memory.slots_BKD[0].index_select(0, rows_K).to(at::kFloat).detach();
    return;
  }
  const Tensor delta_K = at::arange(document.prefix, document.prefix + count, rows_K.options()) -
                         memory.position_BK[0].index_select(0, rows_K);
  for (const KvPair& pair : memory.kv)
    document.start_kv.push_back({shift_keys(pair.key_BGKE.index_select(2, rows_K).to(at::kFloat), delta_K,
                                            backbone_.inverse_frequencies()),
                                 pair.value_BGKE.index_select(2, rows_K).to(at::kFloat)});
}

}  // namespace ctxc
