#include <ATen/Parallel.h>

#include "core/error.h"
#include "core/log.h"
#include "eval/inspect.h"
#include "eval/trace.h"
#include "eval/trace_method.h"
#include "model/weights.h"

namespace ctxc {
namespace {

int trace(const Cli& cli) {
  TraceRequest request{.model = cli.require("model"),
                       .checkpoint = cli.get("checkpoint"),
                       .mode = cli.require("mode"),
                       .positions = cli.get("positions", "mask"),
                       .max_new_tokens = cli.get_int("max-new-tokens", 16),
                       .overrides = cli.overrides()};
  CTXC_CHECK(request.max_new_tokens > 0, ErrorKind::kUsage, "",
             "--max-new-tokens: found {}, expected 1 or more", request.max_new_tokens);
  const int64_t threads = cli.get_int("threads", 0);
  CTXC_CHECK(threads >= 0, ErrorKind::kUsage, "", "--threads: found {}, expected 1 or more", threads);
  if (threads > 0) at::set_num_threads(static_cast<int>(threads));
  const std::string in = cli.require("in"), out = cli.require("out");

  const TraceInputs inputs = read_trace_inputs(in, cli.get("prefix"));
  TraceOutputs outputs = request.checkpoint.empty()
                             ? trace_backbone(*Backbone::load(request.model), inputs, request)
                             : trace_checkpoint(inputs, request);
  for (auto& [name, tensor] : outputs) tensor = tensor.cpu().contiguous();
  save_tensors(out, outputs);
  log_info(fmt::format("{}: {} tensors", out, outputs.size()));
  return 0;
}

}  // namespace

void add_inspect_trace(Subcommands& program) {
  program.add(
      "trace",
      {.summary = "Writes the intermediate tensors of one batch, to look inside or to compare with another\n"
                  "implementation. Runs in float32 on the CPU.",
       .usage =
           "ctxc-inspect trace --model DIR_OR_GGUF [--checkpoint DIR] --in CASE.safetensors --mode MODE\n"
           "  --out OUT.safetensors [key=value...]",
       .options = {{"model", "DIR_OR_GGUF", "the base: Hugging Face folder or GGUF file"},
                   {"checkpoint", "DIR", "a trained method; without it the base alone is traced"},
                   {"in", "FILE",
                    "safetensors with in.input_ids [B,T] and, as needed, in.attention_mask,\n"
                    "in.context_mask, in.labels"},
                   {"prefix", "P", "read P in.NAME, or P NAME, instead"},
                   {"mode", "MODE", "forward, train (loss and gradients) or generate (greedy)"},
                   {"out", "FILE", "safetensors file to write"},
                   {"positions", "RULE", "mask: cumsum(mask) - 1, padding 1 (default); arange: columns"},
                   {"max-new-tokens", "N", "of mode generate (default 16)"},
                   {"threads", "N", "threads of one operation"}},
       .overrides = true},
      trace);
}

}  // namespace ctxc
