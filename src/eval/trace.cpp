#include "eval/trace.h"

#include <fmt/ranges.h>

#include "core/error.h"
#include "model/generate.h"
#include "model/weights.h"

namespace ctxc {
namespace {

/// The named [B, T] tensor, or undefined.
Tensor find_input(const std::map<std::string, Tensor>& tensors, const std::string& prefix,
                  const std::string& name) {
  for (const std::string& key : {prefix + "in." + name, prefix + name})
    if (const auto it = tensors.find(key); it != tensors.end() && (!prefix.empty() || key.starts_with("in.")))
      return it->second;
  return {};
}

Tensor checked(const Tensor& tensor, const Tensor& like_BT, const std::string& path,
               const std::string& name) {
  CTXC_CHECK(at::isIntegralType(tensor.scalar_type(), /*includeBool=*/true), ErrorKind::kInput, "",
             "{}: {} has a wrong type (found {}, expected integers)", path, name,
             at::toString(tensor.scalar_type()));
  CTXC_CHECK(tensor.dim() == 2 && (!like_BT.defined() || tensor.sizes() == like_BT.sizes()),
             ErrorKind::kInput, "", "{}: {} has a wrong shape (found [{}], expected {})", path, name,
             fmt::join(tensor.sizes().vec(), ", "),
             like_BT.defined() ? fmt::format("[{}]", fmt::join(like_BT.sizes().vec(), ", ")) : "[B, T]");
  return tensor;
}

/// Mean of -log p of the next token over the supervised ones.
Tensor next_token_loss(const Tensor& logits_BTV, const TraceInputs& inputs) {
  const Tensor labels_BT = inputs.labels_BT.defined() ? inputs.labels_BT
                                                      : inputs.input_ids_BT.masked_fill(
                                                            inputs.attention_mask_BT.logical_not(), -100);
  const int64_t columns = labels_BT.size(1) - 1;
  return at::cross_entropy_loss(logits_BTV.narrow(1, 0, columns).flatten(0, 1),
                                labels_BT.narrow(1, 1, columns).flatten(), {}, at::Reduction::Mean, -100);
}

TraceOutputs trace_forward(const Backbone& backbone, const TraceInputs& inputs, const Tensor& positions_BT) {
  const at::NoGradGuard no_grad;
  ForwardOptions options;
  for (int64_t index = 0; index <= backbone.config().num_layers; ++index) options.collect.push_back(index);
  const Tensor embeds_BTD = backbone.embed(inputs.input_ids_BT);
  const auto hidden =
      backbone.forward_padded(embeds_BTD, inputs.attention_mask_BT, positions_BT, options).hidden;
  const Tensor logits_BTV = backbone.logits(hidden.back());
  const int64_t columns = inputs.input_ids_BT.size(1) - 1;
  const Tensor logprobs_BT = at::log_softmax(logits_BTV.narrow(1, 0, columns), -1)
                                 .gather(2, inputs.input_ids_BT.narrow(1, 1, columns).unsqueeze(-1))
                                 .squeeze(-1);
  return {{"hidden_states", at::stack(hidden)},
          {"logits", logits_BTV},
          {"position_ids", positions_BT},
          {"token_logprobs", logprobs_BT},
          {"rope.inv_freq", backbone.inverse_frequencies()}};
}

TraceOutputs trace_train(const Backbone& backbone, const TraceInputs& inputs, const Tensor& positions_BT) {
  const Tensor embeds_BTD = backbone.embed(inputs.input_ids_BT).detach().requires_grad_();
  const Tensor hidden_BTD =
      backbone.forward_padded(embeds_BTD, inputs.attention_mask_BT, positions_BT).hidden[0];
  const Tensor loss = next_token_loss(backbone.logits(hidden_BTD), inputs);
  const auto grads = torch::autograd::grad({loss}, {embeds_BTD});
  return {{"loss", loss.detach()}, {"grad_inputs_embeds", grads[0]}};
}

TraceOutputs trace_generate(const Backbone& backbone, const TraceInputs& inputs, const Tensor& positions_BT,
                            int64_t max_new_tokens) {
  const LlamaConfig& config = backbone.config();
  const GenerateOptions options{
      .max_new_tokens = max_new_tokens, .eos = config.eos, .want_step_logits = true};
  const GenerateResult result = generate_padded(backbone, backbone.embed(inputs.input_ids_BT),
                                                inputs.attention_mask_BT, positions_BT, options);
  const int64_t pad = config.pad ? *config.pad : config.eos.empty() ? 0 : config.eos[0];
  return {{"generated", padded_tokens(result, pad)}, {"step_logits", result.step_logits_BTV}};
}

}  // namespace

TraceInputs read_trace_inputs(const std::string& path, const std::string& prefix) {
  const auto tensors = load_tensors(path);
  TraceInputs inputs;
  const Tensor ids = find_input(tensors, prefix, "input_ids");
  CTXC_CHECK(ids.defined(), ErrorKind::kInput, "--prefix names the case inside of the file",
             "{}: no tensor '{}in.input_ids'", path, prefix);
  inputs.input_ids_BT = checked(ids, {}, path, "input_ids").to(at::kLong);
  CTXC_CHECK(inputs.input_ids_BT.numel() > 0, ErrorKind::kInput, "", "{}: input_ids is empty", path);
  const auto mask = [&](const std::string& name) {
    const Tensor found = find_input(tensors, prefix, name);
    return found.defined() ? checked(found, inputs.input_ids_BT, path, name).to(at::kBool)
                           : at::ones(inputs.input_ids_BT.sizes(), at::kBool);
  };
  inputs.attention_mask_BT = mask("attention_mask");
  inputs.context_mask_BT = mask("context_mask");
  if (const Tensor labels = find_input(tensors, prefix, "labels"); labels.defined())
    inputs.labels_BT = checked(labels, {}, path, "labels").to(at::kLong);
  return inputs;
}

Tensor trace_positions(const Tensor& mask_BT, const std::string& rule) {
  CTXC_CHECK(rule == "mask" || rule == "arange", ErrorKind::kUsage, "",
             "trace: unknown positions (found '{}', expected mask or arange)", rule);
  if (rule == "arange") return at::arange(mask_BT.size(1), at::kLong).expand(mask_BT.sizes()).contiguous();
  return (mask_BT.to(at::kLong).cumsum(1) - 1).masked_fill_(mask_BT.logical_not(), 1);
}

TraceOutputs trace_backbone(const Backbone& backbone, const TraceInputs& inputs,
                            const TraceRequest& request) {
  CTXC_CHECK(request.overrides.empty(), ErrorKind::kUsage,
             "configuration belongs to a method: add --checkpoint",
             "trace: the base alone has no configuration (found '{}')", request.overrides.front());
  const Tensor positions_BT = trace_positions(inputs.attention_mask_BT, request.positions);
  if (request.mode == "forward") return trace_forward(backbone, inputs, positions_BT);
  if (request.mode == "train") {
    CTXC_CHECK(!inputs.labels_BT.defined() || inputs.labels_BT.sizes() == inputs.input_ids_BT.sizes(),
               ErrorKind::kInput, "", "trace: labels and input_ids differ in shape");
    return trace_train(backbone, inputs, positions_BT);
  }
  CTXC_CHECK(request.mode == "generate", ErrorKind::kUsage, "",
             "trace: unknown mode (found '{}', expected forward, train or generate)", request.mode);
  return trace_generate(backbone, inputs, positions_BT, request.max_new_tokens);
}

}  // namespace ctxc
