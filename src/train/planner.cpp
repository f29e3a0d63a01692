#include "train/planner.h"

#include <ATen/ATen.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "core/text.h"

namespace ctxc {
namespace {

// A plan for a GPU that is not there: one 80 GB accelerator at 40 % of 312 TFLOP/s (bf16, dense), measured
// nowhere here.
constexpr double kGpuBytes = 80e9, kGpuFlops = 0.4 * 312e12;
constexpr double kFloat = 4;
constexpr double kHeadChunk = 256;  // rows of logits that exist at once (model/loss.h)

/// Multiply-adds of one token through one layer's matrices (2 FLOP each), without attention's own products.
double layer_parameters(const LlamaConfig& llama) {
  const double width = static_cast<double>(llama.hidden_size), head = static_cast<double>(llama.head_dim);
  const double q = static_cast<double>(llama.num_heads) * head,
               kv = static_cast<double>(llama.num_kv_heads) * head;
  return width * (2 * q + 2 * kv) + 3 * width * static_cast<double>(llama.intermediate_size);
}

/// Forward FLOP of `tokens` tokens, each attending to `reach` others on average, through `layers` layers.
double forward_flop(const LlamaConfig& llama, double tokens, double reach, double layers) {
  const double attention = 4 * static_cast<double>(llama.num_heads * llama.head_dim) * reach;
  return tokens * layers * (2 * layer_parameters(llama) + attention);
}

/// Floats that autograd keeps of one token in one layer: norm inputs and outputs, q, k, v before and after
/// rotation, attention output, gate, up, their activation and product.
double saved_floats(const LlamaConfig& llama) {
  const double width = static_cast<double>(llama.hidden_size), head = static_cast<double>(llama.head_dim);
  const double q = static_cast<double>(llama.num_heads) * head,
               kv = static_cast<double>(llama.num_kv_heads) * head;
  return 6 * width + 3 * q + 3 * kv + 4 * static_cast<double>(llama.intermediate_size);
}

double measured_flops() {
  const at::NoGradGuard no_grad;
  const int64_t n = 384;
  const at::Tensor a = at::ones({n, n}), b = at::ones({n, n});
  at::mm(a, b);
  const auto start = std::chrono::steady_clock::now();
  constexpr int kRepeats = 5;
  for (int i = 0; i < kRepeats; ++i) at::mm(a, b);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return 2.0 * kRepeats * static_cast<double>(n * n * n) / std::max(seconds, 1e-9);
}

void plan_device(Plan& plan, bool gpu) {
  plan.flop_per_second = gpu ? kGpuFlops : 0.5 * measured_flops();
  plan.device_bytes =
      gpu ? kGpuBytes
          : static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGESIZE));
  plan.device = gpu ? "one 80 GB GPU (assumed: 40 % of 312 TFLOP/s)"
                    : "this CPU (half of the speed a matrix product reaches now)";
}

}  // namespace

Plan make_plan(const RunConfig& config, const LlamaConfig& llama, const Compressor& compressor,
               int64_t trainable, const BatchShape& shape, int64_t steps) {
  // A GPU that is named is planned for even where there is none.
  const bool gpu = config.run.device.starts_with("cuda") ||
                   (config.run.device == "auto" && resolve_device("auto").is_cuda()),
             base_trains = config.backbone.train;
  const bool half = config.run.dtype == "bfloat16" || (config.run.dtype == "auto" && gpu);
  const double stored = base_trains ? kFloat : (half ? 2 : kFloat), active = gpu && half ? 2 : kFloat;
  const double width = static_cast<double>(llama.hidden_size), layers = static_cast<double>(llama.num_layers);
  Plan plan;
  plan.backbone_parameters = llama.parameter_count();
  plan.trainable_parameters = trainable + (base_trains ? plan.backbone_parameters : 0);
  plan.steps = steps;
  plan_device(plan, gpu);

  const double contexts = std::max(shape.contexts, 1.0), mean_context = shape.context_tokens / contexts;
  plan.slots = static_cast<double>(compressor.slots_for(static_cast<int64_t>(mean_context)));
  const double decoder_tokens = contexts * plan.slots + shape.query_tokens;
  plan.tokens_per_step =
      (shape.context_tokens + shape.query_tokens) * static_cast<double>(config.train.accumulate);

  const double parameters = static_cast<double>(plan.trainable_parameters);
  plan.weights =
      static_cast<double>(plan.backbone_parameters) * stored + static_cast<double>(trainable) * kFloat;
  plan.gradients = parameters * kFloat;
  plan.optimizer = 2 * parameters * kFloat;

  const Needs needs = compressor.needs();
  const bool encodes =
      std::any_of(needs.hidden.begin(), needs.hidden.end(), [](int64_t index) { return index != 0; });
  const double encoder_layers = !encodes ? 0 : (needs.layers ? static_cast<double>(needs.layers) : layers);
  const double one_layer = shape.context_tokens * saved_floats(llama) * active;
  const double states = shape.context_tokens * width * static_cast<double>(needs.hidden.size()) * active;
  // Frozen states are kept, one layer's intermediates live at a time; adapters keep those of every layer. The
  // method's own graph over the tokens is a few tensors of the model's width.
  plan.encoder = states + (encodes ? one_layer * (needs.lora || base_trains ? encoder_layers : 1) : 0) +
                 8 * shape.context_tokens * width * kFloat * (trainable > 0 ? 1 : 0);
  plan.decoder = decoder_tokens * saved_floats(llama) * active * layers;
  const double chunk = std::min(kHeadChunk, shape.supervised);
  plan.head =
      2 * chunk * static_cast<double>(llama.vocab_size) * kFloat + 2 * shape.supervised * width * kFloat;

  const double encoder_flop = forward_flop(llama, shape.context_tokens, mean_context / 2, encoder_layers);
  const double decoder_flop = forward_flop(
      llama, decoder_tokens, plan.slots + shape.query_tokens / std::max(shape.queries, 1.0), layers);
  const double head_flop = 2 * shape.supervised * width * static_cast<double>(llama.vocab_size);
  // Backward through frozen weights needs only the gradient of the activations: as much again as the forward
  // pass. The gradient of trained weights is a third pass.
  const double decoder_passes = base_trains ? 3 : 2, encoder_passes = base_trains ? 3 : (needs.lora ? 2 : 1);
  plan.flop_per_step = static_cast<double>(config.train.accumulate) *
                       (encoder_passes * encoder_flop + decoder_passes * (decoder_flop + head_flop) +
                        6 * static_cast<double>(trainable) * shape.context_tokens);

  plan.checkpoint_bytes = 3 * parameters * kFloat;
  plan.disk_bytes =
      plan.checkpoint_bytes * static_cast<double>(config.train.keep + 1 + (config.train.keep_best ? 1 : 0));
  return plan;
}

std::string plan_text(const Plan& plan) {
  const auto bytes = [](double value) { return human_bytes(static_cast<uint64_t>(value)); };
  std::vector<std::vector<std::string>> rows = {
      {"memory", "bytes"},
      {"weights", bytes(plan.weights)},
      {"gradients", bytes(plan.gradients)},
      {"optimizer", bytes(plan.optimizer)},
      {"activations: encoder", bytes(plan.encoder)},
      {"activations: decoder", bytes(plan.decoder)},
      {"logits of a chunk", bytes(plan.head)},
      {"all", bytes(plan.memory())},
  };
  std::string text = format_table(rows);
  const bool fits = plan.memory() < plan.device_bytes;
  text += fmt::format("parameters: {} in the base, {} trained; {} slots of a mean context\n",
                      human_count(static_cast<double>(plan.backbone_parameters)),
                      human_count(static_cast<double>(plan.trainable_parameters)), plan.slots);
  text += fmt::format("device: {}, {}: {}\n", plan.device, bytes(plan.device_bytes),
                      fits ? "it fits" : "IT DOES NOT FIT: lower train.batch and raise train.accumulate");
  text += fmt::format("arithmetic: {}FLOP a step over {} tokens\n", human_count(plan.flop_per_step),
                      human_count(plan.tokens_per_step));
  text += fmt::format("time: about {} a step, {} for {} steps\n", human_duration(plan.seconds_per_step()),
                      human_duration(plan.seconds_per_step() * static_cast<double>(plan.steps)), plan.steps);
  text += fmt::format("disk: {} a checkpoint, {} at most\n", bytes(plan.checkpoint_bytes),
                      bytes(plan.disk_bytes));
  return text;
}

BatchShape shape_of(const Batch& batch) {
  BatchShape shape;
  shape.contexts = static_cast<double>(batch.examples.size());
  shape.context_tokens = static_cast<double>(batch.context_tokens());
  shape.queries = static_cast<double>(batch.queries());
  shape.query_tokens = static_cast<double>(batch.query_tokens());
  shape.supervised = static_cast<double>(batch.supervised_tokens());
  for (const Example& example : batch.examples)
    shape.longest_context = std::max(shape.longest_context, static_cast<double>(example.context.size()));
  return shape;
}

bool is_out_of_memory(const std::string& message) {
  return message.find("out of memory") != std::string::npos ||
         message.find("can't allocate memory") != std::string::npos;
}

Error out_of_memory(int64_t step, const std::string& message, const Plan& plan, const DeviceMemory& memory) {
  const auto bytes = [](double value) { return human_bytes(static_cast<uint64_t>(value)); };
  std::string text = fmt::format("step {}: out of memory: {}; planned for this batch: {}", step, message,
                                 bytes(plan.memory()));
  if (memory.total > 0)
    text +=
        fmt::format("; tensors held {} at most and {} now, of {}", bytes(static_cast<double>(memory.peak)),
                    bytes(static_cast<double>(memory.allocated)), bytes(static_cast<double>(memory.total)));
  return Error(ErrorKind::kMemory, text,
               "lower train.batch and raise train.accumulate by as much, or shorten data.context_tokens");
}

OrderedJson plan_json(const Plan& plan) {
  return {{"backbone_parameters", plan.backbone_parameters},
          {"trainable_parameters", plan.trainable_parameters},
          {"slots", plan.slots},
          {"bytes",
           {{"weights", plan.weights},
            {"gradients", plan.gradients},
            {"optimizer", plan.optimizer},
            {"encoder", plan.encoder},
            {"decoder", plan.decoder},
            {"head", plan.head},
            {"all", plan.memory()}}},
          {"device", plan.device},
          {"device_bytes", plan.device_bytes},
          {"fits", plan.memory() < plan.device_bytes},
          {"flop_per_step", plan.flop_per_step},
          {"tokens_per_step", plan.tokens_per_step},
          {"seconds_per_step", plan.seconds_per_step()},
          {"steps", plan.steps},
          {"checkpoint_bytes", plan.checkpoint_bytes},
          {"disk_bytes", plan.disk_bytes}};
}

}  // namespace ctxc
