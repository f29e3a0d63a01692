#include "eval/trace_method.h"

#include "core/error.h"
#include "model/artifact.h"
#include "model/generate.h"

namespace ctxc {
namespace {

/// One case cut into context and query columns; the context also with its padding moved to the left.
struct Case {
  Tensor context_BN, context_mask_BN;  ///< left-padded
  std::vector<Tokens> contexts;
  Tensor query_BT, query_mask_BT, labels_BT;
};

/// Order that moves masked columns to the left and keeps the others' order.
Tensor padding_first(const Tensor& mask_BT) {
  return at::argsort(mask_BT.to(at::kLong), /*stable=*/true, /*dim=*/1, /*descending=*/false);
}

/// The columns of `values` where `mask` is 1 (the same number in every row).
Tensor columns_of(const Tensor& values_BT, const Tensor& mask_BT, int64_t columns) {
  return values_BT.masked_select(mask_BT).view({values_BT.size(0), columns});
}

Case cut(const TraceInputs& inputs, std::optional<int64_t> bos) {
  const Tensor count_B = inputs.context_mask_BT.sum(1);
  const int64_t columns = inputs.input_ids_BT.size(1), context = count_B[0].item<int64_t>();
  CTXC_CHECK(count_B.eq(context).all().item<bool>() && context > 0, ErrorKind::kInput,
             "context_mask marks the context's columns, padding included",
             "trace: context_mask must mark the same number of columns in every row, at least one (found {} "
             "in the first)",
             context);
  const Tensor rest_BT = inputs.context_mask_BT.logical_not();
  Case result;
  const Tensor mask_BN = columns_of(inputs.attention_mask_BT, inputs.context_mask_BT, context);
  const Tensor order_BN = padding_first(mask_BN);
  result.context_BN = columns_of(inputs.input_ids_BT, inputs.context_mask_BT, context).gather(1, order_BN);
  result.context_mask_BN = mask_BN.gather(1, order_BN);
  for (int64_t row = 0; row < result.context_BN.size(0); ++row) {
    const Tensor real = result.context_BN[row].masked_select(result.context_mask_BN[row]).to(at::kInt);
    result.contexts.emplace_back(real.const_data_ptr<TokenId>(),
                                 real.const_data_ptr<TokenId>() + real.numel());
  }
  result.query_BT = columns_of(inputs.input_ids_BT, rest_BT, columns - context);
  result.query_mask_BT = columns_of(inputs.attention_mask_BT, rest_BT, columns - context);
  result.labels_BT = inputs.labels_BT;
  // The head is the BOS; a query that brings one of its own loses it (a rule over the whole batch).
  if (bos && result.query_BT.size(1) > 0 && result.query_BT.select(1, 0).eq(*bos).all().item<bool>()) {
    result.query_BT = result.query_BT.slice(1, 1);
    result.query_mask_BT = result.query_mask_BT.slice(1, 1);
  }
  return result;
}

/// [head, slots, query] as the decoder reads it.
struct DecoderInput {
  Tensor embeds_BTD, mask_BT;
};

DecoderInput join_parts(const Backbone& backbone, const Memory& memory, const Case& parts,
                        bool padding_left) {
  Tensor body_BTD = at::cat({memory.slots_BKD, backbone.embed(parts.query_BT)}, 1);
  Tensor mask_BT = at::cat({memory.mask_BK, parts.query_mask_BT}, 1);
  if (padding_left) {
    const Tensor order_BT = padding_first(mask_BT);
    mask_BT = mask_BT.gather(1, order_BT);
    body_BTD = body_BTD.gather(1, order_BT.unsqueeze(2).expand_as(body_BTD));
  }
  const Tensor head_BTD = backbone.embed(memory.head_ids_BP);
  const Tensor real = at::ones({head_BTD.size(0), head_BTD.size(1)}, mask_BT.options());
  return {at::cat({head_BTD, body_BTD}, 1), at::cat({real, mask_BT}, 1)};
}

/// Hidden state L of every position. Masked columns are hidden as keys only, so that their rows hold what an
/// eager implementation has there.
Tensor read_all(const Backbone& backbone, const DecoderInput& input, const Tensor& positions_BT) {
  const int64_t batch = input.embeds_BTD.size(0), columns = input.embeds_BTD.size(1);
  PackedRows rows{.embeds_PD = input.embeds_BTD.flatten(0, 1),
                  .positions_P = positions_BT.flatten(),
                  .segments = {},
                  .prefix = {},
                  .prefix_mask_BK = {}};
  const Tensor causal_TT = at::ones({columns, columns}, at::kBool).tril();
  for (int64_t row = 0; row < batch; ++row)
    rows.segments.push_back({.length = columns,
                             .mask_TS = causal_TT.logical_and(input.mask_BT[row].unsqueeze(0)),
                             .prefix_row = -1});
  return backbone.forward(rows).hidden[0].view({batch, columns, -1});
}

/// The encoder's states through the padded path: [S, B, N, D].
Tensor encoder_states(const Backbone& backbone, const Compressor& compressor, const Case& parts) {
  const at::NoGradGuard no_gradient;
  ForwardOptions options;
  options.layers = compressor.needs().layers;
  const int64_t last = options.layers > 0 ? options.layers : backbone.config().num_layers;
  for (int64_t index = 0; index <= last; ++index) options.collect.push_back(index);
  const Tensor positions_BN = trace_positions(parts.context_mask_BN, "arange");
  return at::stack(
      backbone.forward_padded(backbone.embed(parts.context_BN), parts.context_mask_BN, positions_BN, options)
          .hidden);
}

/// Mean cross-entropy of the supervised query tokens, each predicted one position earlier.
Tensor query_loss(const Tensor& logits_BTV, const Case& parts) {
  const int64_t scored = std::min(parts.query_BT.size(1), parts.labels_BT.size(1)),
                columns = logits_BTV.size(1);
  const Tensor labels_BT = parts.labels_BT.slice(1, parts.labels_BT.size(1) - scored);
  return at::cross_entropy_loss(logits_BTV.slice(1, columns - scored - 1, columns - 1).flatten(0, 1),
                                labels_BT.flatten(), {}, at::Reduction::Mean, -100);
}

void add_recorded(TraceOutputs& outputs, const Compressor& compressor) {
  for (const auto& [name, tensor] : compressor.recorded()) outputs.emplace_back(name, tensor);
}

/// Masked slots and query tokens keep their positions in training (the peer's rule).
bool numbered_by_column(const Compressor& compressor) {
  const Yaml config = Yaml::parse(compressor.config_yaml(), "compressor");
  const Yaml* rule = config.kind() == Yaml::Kind::kMap ? config.find("positions") : nullptr;
  return rule && rule->scalar() == "column";
}

TraceOutputs trace_train(const Backbone& backbone, Compressor& compressor, const Case& parts,
                         const Memory& memory) {
  CTXC_CHECK(parts.labels_BT.defined() && parts.labels_BT.size(0) == parts.query_BT.size(0),
             ErrorKind::kInput, "mode train needs in.labels [B, query columns]",
             "trace: in.labels is missing or has another batch");
  const DecoderInput input = join_parts(backbone, memory, parts, /*padding_left=*/false);
  const Tensor positions_BT =
      trace_positions(input.mask_BT, numbered_by_column(compressor) ? "arange" : "mask");
  const Tensor logits_BTV = backbone.logits(read_all(backbone, input, positions_BT));
  const Tensor loss = query_loss(logits_BTV, parts);
  TraceOutputs outputs = {{"context_mask_left", parts.context_mask_BN.to(at::kLong)},
                          {"hidden_states", encoder_states(backbone, compressor, parts)}};
  add_recorded(outputs, compressor);
  outputs.emplace_back("dec_inputs_embeds", input.embeds_BTD.detach());
  outputs.emplace_back("dec_attention_mask", input.mask_BT.to(at::kFloat));
  outputs.emplace_back("dec_logits", logits_BTV.detach());
  outputs.emplace_back("loss", loss.detach());
  std::vector<Tensor> parameters;
  for (const auto& entry : compressor.named_parameters()) parameters.push_back(entry.value());
  const auto gradients = torch::autograd::grad({loss}, parameters, {}, false, false, /*allow_unused=*/true);
  size_t index = 0;
  for (const auto& entry : compressor.named_parameters()) {
    const Tensor& gradient = gradients[index++];
    outputs.emplace_back("grad." + entry.key(),
                         gradient.defined() ? gradient : at::zeros_like(entry.value()));
  }
  return outputs;
}

TraceOutputs trace_generate(const Backbone& backbone, Compressor& compressor, const Case& parts,
                            const Memory& memory, int64_t max_new_tokens) {
  const LlamaConfig& config = backbone.config();
  const DecoderInput input = join_parts(backbone, memory, parts, /*padding_left=*/true);
  const Tensor positions_BT = trace_positions(input.mask_BT, "mask");
  const GenerateResult result =
      generate_padded(backbone, input.embeds_BTD, input.mask_BT, positions_BT,
                      {.max_new_tokens = max_new_tokens, .eos = config.eos, .want_step_logits = true});
  TraceOutputs outputs = {{"context_mask_left", parts.context_mask_BN.to(at::kLong)}};
  add_recorded(outputs, compressor);
  outputs.emplace_back("dec_inputs_embeds", input.embeds_BTD);
  outputs.emplace_back("dec_attention_mask", input.mask_BT.to(at::kFloat));
  outputs.emplace_back("dec_position_ids", positions_BT);
  outputs.emplace_back("dec_logits", result.step_logits_BTV.select(1, 0));
  const int64_t pad = config.pad ? *config.pad : config.eos.empty() ? 0 : config.eos[0];
  outputs.emplace_back("generated", padded_tokens(result, pad));
  outputs.emplace_back("step_logits", result.step_logits_BTV);
  return outputs;
}

}  // namespace

TraceOutputs trace_method(const Backbone& backbone, Compressor& compressor, const TraceInputs& inputs,
                          const TraceRequest& request) {
  CTXC_CHECK(request.mode == "train" || request.mode == "generate", ErrorKind::kUsage, "",
             "trace: unknown mode for a method (found '{}', expected train or generate)", request.mode);
  const bool train = request.mode == "train";
  const at::AutoGradMode gradients(train);
  const Case parts = cut(inputs, backbone.config().bos);
  compressor.train(train);
  compressor.record(true);
  Context context(backbone, parts.contexts, parts.context_BN.size(1));
  const Memory memory =
      compressor.compress(context, {.seed = 0, .step = 0, .micro = 0, .training = train}).memory;
  CTXC_CHECK(memory.kv.empty(), ErrorKind::kUsage, "",
             "trace: methods whose memory is keys and values have no such trace");
  return train ? trace_train(backbone, compressor, parts, memory)
               : trace_generate(backbone, compressor, parts, memory, request.max_new_tokens);
}

TraceOutputs trace_checkpoint(const TraceInputs& inputs, const TraceRequest& request) {
  BackboneOptions options;
  options.dtype = "float32";
  if (is_peer_checkpoint(request.checkpoint)) {
    const PeerMethod method = load_peer_method(request.checkpoint, request.model, request.overrides, options);
    return trace_method(*method.backbone, *method.compressor, inputs, request);
  }
  const LoadedMethod method = load_method(request.checkpoint, request.model, request.overrides, options);
  return trace_method(*method.backbone, *method.compressor, inputs, request);
}

}  // namespace ctxc
