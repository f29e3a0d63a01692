#include "train/warm_start.h"

#include <ATen/core/grad_mode.h>

#include "core/error.h"
#include "core/text.h"
#include "model/artifact.h"
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
             "name a run of comprexit or diffusion",
             "compressor.warm_start: {} compiles one context at a time, it has no slots for another",
             checkpoint);
  compressor_ = method.compressor;
  padded_length_ = method.padded_length;
}

Tensor WarmStart::slots(const Tokens& context, int64_t most) const {
  const at::NoGradGuard no_grad;
  const int64_t length = static_cast<int64_t>(context.size());
  Context batch(backbone_, {context}, padded_length_ > 0 ? std::max(padded_length_, length) : 0);
  const Memory memory = compressor_->compress(batch, {.training = false}).memory;
  CTXC_CHECK(memory.slots_BKD.defined(), ErrorKind::kUsage, "name a run of comprexit or diffusion",
             "compressor.warm_start: {} makes keys and values, no slots to start from", checkpoint_);
  const Tensor slots_KD =
      memory.slots_BKD[0].index_select(0, memory.mask_BK[0].nonzero().flatten()).to(at::kFloat);
  const int64_t count = slots_KD.size(0);
  CTXC_CHECK(count >= 1 && count <= most, ErrorKind::kUsage,
             "set compressor.ratio to the ratio the compressor was trained for",
             "compressor.warm_start: {} makes {} slots of {} tokens (expected 1 to {})", checkpoint_, count,
             length, most);
  return slots_KD.detach();
}

}  // namespace ctxc
