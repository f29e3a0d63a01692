// One case file of a Llama as transformers computed it, against every path of ours.
//   full.*            unpadded batch: hidden states, logits, loss, gradient of the input embeddings
//   in.*, pad.*       left-padded batch: logits with positions from the mask, or counted by columns (where
//   stored) generated, step_logits   greedy continuation of it
#pragma once
#include <gtest/gtest.h>

#include "eval/trace.h"
#include "model/generate.h"
#include "model/weights.h"
#include "tiny_llama.h"

namespace ctxc::testing {

constexpr double kValues = 1e-4, kGradients = 2e-3;

inline std::map<std::string, Tensor> by_name(const TraceOutputs& outputs) {
  return {outputs.begin(), outputs.end()};
}

inline void check_full(const Backbone& backbone, const std::string& path,
                       const std::map<std::string, Tensor>& golden) {
  const TraceInputs inputs = read_trace_inputs(path, "full.");
  const auto forward = by_name(trace_backbone(backbone, inputs, {.mode = "forward"}));
  EXPECT_LT(relative_error(forward.at("hidden_states"), golden.at("full.hidden_states")), kValues);
  EXPECT_LT(relative_error(forward.at("logits"), golden.at("full.logits")), kValues);
  EXPECT_LT(relative_error(forward.at("rope.inv_freq"), golden.at("rope.inv_freq")), 1e-6);
  const auto train = by_name(trace_backbone(backbone, inputs, {.mode = "train"}));
  EXPECT_EQ(train.at("loss").dim(), 0);
  EXPECT_LT(relative_error(train.at("loss"), golden.at("full.loss_next_token")), kValues);
  EXPECT_LT(relative_error(train.at("grad_inputs_embeds"), golden.at("full.grad_inputs_embeds")), kGradients);

  // The packed path: the rows one after another.
  const Tensor ids_BT = golden.at("full.input_ids");
  PackedRows rows{.embeds_PD = backbone.embed(ids_BT.flatten()),
                  .positions_P = at::arange(ids_BT.size(1), at::kLong).repeat({ids_BT.size(0)}),
                  .segments = {},
                  .prefix = {},
                  .prefix_mask_BK = {}};
  for (int64_t row = 0; row < ids_BT.size(0); ++row)
    rows.segments.push_back({.length = ids_BT.size(1), .mask_TS = {}});
  ForwardOptions options;
  for (int64_t state = 0; state <= backbone.config().num_layers; ++state) options.collect.push_back(state);
  const Tensor packed = at::stack(backbone.forward(rows, options).hidden);
  EXPECT_LT(relative_error(packed, golden.at("full.hidden_states").flatten(1, 2)), kValues);
}

inline void check_padded(const Backbone& backbone, const std::string& path,
                         const std::map<std::string, Tensor>& golden) {
  const TraceInputs inputs = read_trace_inputs(path, "");
  const Tensor real_BT = inputs.attention_mask_BT;
  for (const auto& [rule, name] :
       {std::pair{"mask", "pad.logits_mask_positions"}, std::pair{"arange", "pad.logits_arange_positions"}}) {
    if (!golden.count(name)) continue;
    const auto found = by_name(trace_backbone(backbone, inputs, {.mode = "forward", .positions = rule}));
    EXPECT_LT(relative_error(found.at("logits").index({real_BT}), golden.at(name).index({real_BT})), kValues)
        << rule;
    if (std::string(rule) == "mask") {
      EXPECT_TRUE(found.at("position_ids").equal(golden.at("pad.position_ids")));
    }
  }
}

inline void check_generation(const Backbone& backbone, const std::string& path,
                             const std::map<std::string, Tensor>& golden) {
  const TraceInputs inputs = read_trace_inputs(path, "");
  const Tensor expected = golden.at("generated"), expected_logits = golden.at("step_logits");
  const auto found =
      by_name(trace_backbone(backbone, inputs, {.mode = "generate", .max_new_tokens = expected.size(1)}));
  EXPECT_TRUE(found.at("generated").equal(expected)) << found.at("generated") << expected;
  std::vector<Tokens> prompts;
  for (int64_t row = 0; row < expected.size(0); ++row) {
    const Tensor ids = inputs.input_ids_BT[row].index({inputs.attention_mask_BT[row]}).contiguous();
    prompts.emplace_back(ids.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>() + ids.numel());
  }
  const GenerateResult packed =
      generate(backbone, prompts,
               {.max_new_tokens = expected.size(1), .eos = backbone.config().eos, .want_step_logits = true});
  for (int64_t row = 0; row < expected.size(0); ++row) {
    const int64_t steps = static_cast<int64_t>(packed.tokens[row].size());
    EXPECT_EQ(ids_of(packed.tokens[row]).equal(expected[row].narrow(0, 0, steps)), true) << row;
    const auto head = [&](const Tensor& logits_BTV) { return logits_BTV[row].narrow(0, 0, steps); };
    EXPECT_LT(relative_error(head(found.at("step_logits")), head(expected_logits)), kValues);
    EXPECT_LT(relative_error(head(packed.step_logits_BTV), head(expected_logits)), kValues);
  }
}

inline void check_llama_case(const std::string& model, const std::string& path) {
  const auto backbone = Backbone::load(model);
  const auto golden = load_tensors(path);
  check_full(*backbone, path, golden);
  check_padded(*backbone, path, golden);
  check_generation(*backbone, path, golden);
}

}  // namespace ctxc::testing
