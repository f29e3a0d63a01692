// `ctxc-inspect trace --checkpoint`: a trained method on one batch, in the padded layouts of the ComprExIT
// repository (interface.md section 4), every row filled.
#pragma once
#include "eval/trace.h"
#include "model/compressor.h"

namespace ctxc {

/// Loads the checkpoint over the base and traces it. Error kInput where they do not fit.
TraceOutputs trace_checkpoint(const TraceInputs& inputs, const TraceRequest& request);

/// A method that is already there:
///   train     context_mask_left hidden_states, what the method records (fused layer_weights cost a b plan
///   slots_raw
///             slots slots_mask), dec_inputs_embeds dec_attention_mask dec_logits loss, grad.<parameter>
///   generate  the same without hidden_states, loss and gradients; dec_position_ids, dec_logits [B, V] of the
///   last prefill
///             position, generated [B, n], step_logits [B, n, V]
TraceOutputs trace_method(const Backbone& backbone, Compressor& compressor, const TraceInputs& inputs,
                          const TraceRequest& request);

}  // namespace ctxc
