#include <cstdio>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "eval/inspect.h"
#include "eval/plan_picture.h"
#include "model/artifact.h"

namespace ctxc {
namespace {

/// A token as a label: spaces and line ends made visible.
std::string label_of(const Tokenizer& tokenizer, TokenId id) {
  std::string text = tokenizer.piece(id), label;
  for (const char c : text)
    label += c == '\n' ? std::string("⏎") : c == ' ' ? std::string("·") : std::string(1, c);
  return label;
}

/// Windows of the only row of what `compressor` recorded.
std::vector<PlanWindow> windows_of(const Compressor& compressor, const Tokenizer& tokenizer,
                                   const Tokens& tokens) {
  const auto& recorded = compressor.recorded();
  const Tensor plan = recorded.at("plan")[0].cpu(), place = recorded.at("window_tokens")[0].cpu();
  const Tensor weights = recorded.at("layer_weights")[0].cpu(), mask = recorded.at("slots_mask")[0].cpu();
  const int64_t slots = plan.size(2);
  std::vector<PlanWindow> windows;
  int64_t slot = 0;
  for (int64_t w = 0; w < plan.size(0); ++w) {
    PlanWindow& window = windows.emplace_back();
    window.first_slot = slot;
    window.weights.resize(weights.size(1));
    const Tensor column_K = plan[w].sum(0);
    for (int64_t k = 0; k < slots; ++k)
      if (mask[w * slots + k].item<int64_t>() != 0) window.shares.emplace_back();
    slot += static_cast<int64_t>(window.shares.size());
    for (int64_t i = 0; i < place.size(1); ++i) {
      const int64_t token = place[w][i].item<int64_t>();
      if (token < 0) continue;
      window.tokens.push_back(label_of(tokenizer, tokens[token]));
      for (int64_t s = 0; s < weights.size(1); ++s)
        window.weights[s].push_back(weights[token][s].item<double>());
      size_t row = 0;
      for (int64_t k = 0; k < slots; ++k)
        if (mask[w * slots + k].item<int64_t>() != 0)
          window.shares[row++].push_back(plan[w][i][k].item<double>() / column_K[k].item<double>());
    }
  }
  return windows;
}

int plan(const Cli& cli) {
  const std::string out = cli.require("out"), source = cli.require("text");
  std::string text;
  for_each_line(source,
                [&](std::string_view line, int64_t) { text.append(text.empty() ? "" : "\n").append(line); });
  const LoadedMethod method = load_method(cli.require("checkpoint"), cli.get("model"), cli.overrides());
  const Prompt prompt(method.prompt, method.tokenizer);
  Tokens tokens = prompt.context_ids(text);
  CTXC_CHECK(!tokens.empty(), ErrorKind::kInput, "", "{}: the text is empty", source);
  const int64_t limit = cli.get_int("max-tokens", 512);
  CTXC_CHECK(limit > 0, ErrorKind::kUsage, "", "--max-tokens: found {}, expected 1 or more", limit);
  if (static_cast<int64_t>(tokens.size()) > limit) tokens.resize(limit);

  const at::NoGradGuard no_gradient;
  method.compressor->record(true);
  Context context(*method.backbone, {tokens});
  method.compressor->compress(context, {.seed = 0, .step = 0, .micro = 0, .training = false});
  CTXC_CHECK(method.compressor->recorded().count("plan"), ErrorKind::kUsage, "comprexit has one",
             "{}: this method has no transmission plan", method.path);
  const auto windows = windows_of(*method.compressor, method.tokenizer, tokens);
  const int64_t slots = method.compressor->recorded().at("slots_mask").sum().item<int64_t>();
  const std::string title = fmt::format("Transmission plan: {} tokens to {} slots", tokens.size(), slots);
  write_file_atomic(out, render_plan(windows, title));
  if (cli.json()) fmt::print("{}\n", Json{{"tokens", tokens.size()}, {"slots", slots}, {"out", out}}.dump());
  log_info(fmt::format("{}: {} tokens, {} slots", out, tokens.size(), slots));
  return 0;
}

}  // namespace

void add_inspect_plan(Subcommands& program) {
  program.add(
      "plan",
      {.summary =
           "Draws how a text becomes slots: the transport plan of every window and the weight of every\n"
           "layer, with the tokens.",
       .usage = "ctxc-inspect plan --checkpoint DIR --text FILE --out X.svg [--model DIR] [key=value...]",
       .options = {{"checkpoint", "DIR", "run folder, checkpoint, or folder of the ComprExIT repository"},
                   {"model", "DIR_OR_GGUF", "the base; default: the one the checkpoint names"},
                   {"text", "FILE", "the text; - reads standard input"},
                   {"out", "FILE", "SVG to write"},
                   {"max-tokens", "N", "draw the first N tokens only (default 512)"}},
       .overrides = true},
      plan);
}

}  // namespace ctxc
