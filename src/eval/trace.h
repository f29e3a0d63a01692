// `ctxc-inspect trace`: the intermediate tensors of one batch, through the plain padded path, every row
// filled. Names and layouts are interface.md section 4; they are how parity with other implementations is
// checked.
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "model/backbone.h"

namespace ctxc {

struct TraceRequest {
  std::string model = {};          ///< Hugging Face folder or GGUF file
  std::string checkpoint = {};     ///< "" = the base alone
  std::string mode = {};           ///< forward | train | generate
  std::string positions = "mask";  ///< mask: cumsum(mask) - 1, padding 1 | arange: columns
  int64_t max_new_tokens = 16;
  std::vector<std::string> overrides = {};  ///< key=value of the method's configuration
};

/// What a case file holds; masks come in as U8, BOOL or I64.
struct TraceInputs {
  Tensor input_ids_BT;       ///< int64
  Tensor attention_mask_BT;  ///< bool; ones if the file has none
  Tensor context_mask_BT;    ///< bool; ones if the file has none
  Tensor labels_BT;          ///< int64 (-100 = not supervised); undefined if the file has none
};

/// Reads `<prefix>in.NAME`, or `<prefix>NAME` when there is a prefix. Error kInput.
TraceInputs read_trace_inputs(const std::string& path, const std::string& prefix);

/// Position ids [B, T] by the rule of TraceRequest::positions.
Tensor trace_positions(const Tensor& mask_BT, const std::string& rule);

using TraceOutputs = std::vector<std::pair<std::string, Tensor>>;

/// The base alone:
///   forward   hidden_states [L+1,B,T,D], logits, position_ids, token_logprobs [B,T-1], rope.inv_freq
///   train     loss (next token), grad_inputs_embeds
///   generate  generated [B,n], step_logits [B,n,V]
TraceOutputs trace_backbone(const Backbone& backbone, const TraceInputs& inputs, const TraceRequest& request);

}  // namespace ctxc
