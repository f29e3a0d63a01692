// ctxc-run compile --model M --text FILE --out MEMORY
#include "train/run_compile.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <filesystem>
#include <iostream>

#include "core/error.h"
#include "core/log.h"
#include "core/stop.h"
#include "core/text.h"
#include "train/context_compiler.h"

namespace ctxc {
namespace {

const CliSpec kSpec = {
    .summary = "Compiles one text into a memory artifact that the frozen base reads instead of it (lcc).",
    .usage = "ctxc-run compile --model PATH --text FILE --out MEMORY [key=value…]",
    .options = {{"model", "PATH", "the base model"},
                {"text", "FILE", "the text; - reads standard input"},
                {"out", "MEMORY", "memory artifact to write (one safetensors file)"},
                {"keep-lora", "FILE",
                 "also keep the adapters and buffers that made the memory (safetensors)"},
                {"preset", "NAME", "default, paper or small (a few CPU cores)"},
                {"overwrite", "", "replace an existing --out"}},
    .overrides = true};

RunConfig config_of(const Cli& cli) {
  Yaml document = Yaml::parse("compressor: {name: lcc}", "ctxc-run compile");
  const auto set = [&](const std::string& key, const std::string& value) {
    document = document.with(key, Yaml::parse(OrderedJson(value).dump(), "--" + key));
  };
  set("backbone.path", cli.require("model"));
  set("data.contexts.0", cli.require("text"));
  if (cli.has("preset")) set("compressor.preset", cli.require("preset"));
  return resolve_run_config(document, cli.overrides());
}

/// A line of progress for every measurement, and a progress line for the steps.
CompileWatcher watcher_of(Progress& progress) {
  CompileWatcher watcher;
  watcher.answered = [](int64_t done, int64_t of) {
    log_info(fmt::format("the base has answered {} of {} random queries", done, of));
  };
  watcher.step = [&progress](const CompileStep& step, int64_t) {
    progress.update(step.step + 1, fmt::format("loss {:.4f} · KL {:.4f} · recon {:.4f} · {:.2f} s a step",
                                               step.loss, step.align, step.recon, step.seconds));
  };
  watcher.check = [](const CompileCheck& check) {
    log_info(fmt::format("step {}: KL on held-out queries {:.4f}, NLL of the probes {:.4f}", check.step,
                         check.numbers.kl_q, check.numbers.nll_m));
  };
  return watcher;
}

void report(const Cli& cli, const std::string& out, const MemoryArtifact& artifact) {
  const OrderedJson& info = artifact.info;
  const int64_t tokens = info["context"].value("n_tokens", int64_t{0}),
                slots = artifact.rows() - artifact.header();
  const uint64_t bytes = std::filesystem::file_size(out);
  if (cli.json()) {
    std::cout << OrderedJson{{"out", out},
                             {"tokens", tokens},
                             {"slots", slots},
                             {"header", artifact.header()},
                             {"ratio", info["ratio"]},
                             {"bytes", bytes},
                             {"metrics", info["metrics"]}}
                     .dump()
              << "\n";
    return;
  }
  log_info(fmt::format("{}: {} tokens -> {} slots behind {} header rows, {}", out, tokens, slots,
                       artifact.header(), human_bytes(bytes)));
  const OrderedJson& metrics = info["metrics"];
  if (!metrics.contains("heldout_kl")) return;
  const auto row = [](const char* name, const OrderedJson& numbers) {
    return std::vector<std::string>{name, fmt::format("{:.4f}", numbers["heldout_kl"].get<double>()),
                                    fmt::format("{:.4f}", numbers["probe_nll"].get<double>())};
  };
  log_info(format_table({{"memory", "KL on held-out queries", "NLL of the probes"},
                         row("none", metrics["none"]),
                         row("untrained", metrics["untrained"]),
                         row("compiled", metrics),
                         row("full context", metrics["full"])}));
  log_info(fmt::format("{} steps, {:.2f} s each, {} in all; greedy reconstruction: {:.1f} % of {} tokens",
                       metrics["steps"].get<int64_t>(), metrics["seconds_per_step"].get<double>(),
                       human_duration(metrics["seconds"].get<double>()),
                       100 * metrics["recon_token_acc"].get<double>(),
                       metrics["recon_tokens"].get<int64_t>()));
}

int run_compile(const Cli& cli) {
  if (cli.help()) {
    fmt::print("{}", run_config_help(*cli.help()));
    return 0;
  }
  const std::string out = cli.require("out");
  const RunConfig config = config_of(cli);
  if (cli.has("print-config")) {
    fmt::print("{}", dump_config(config));
    return 0;
  }
  CTXC_CHECK(!std::filesystem::exists(out) || cli.has("overwrite"), ErrorKind::kBusy,
             "choose another --out, or add --overwrite", "{}: is there already", out);
  if (config.run.threads > 0) at::set_num_threads(static_cast<int>(config.run.threads));
  const std::vector<ContextText> contexts = read_contexts(config);
  CTXC_CHECK(contexts.size() == 1, ErrorKind::kUsage, "ctxc-train with data.contexts compiles several",
             "--text holds several contexts (found {}, expected 1)", contexts.size());
  install_stop_handlers();
  ContextCompiler compiler(config);
  if (cli.has("keep-lora")) compiler.keep_parameters();
  Progress progress("compile", config.train.steps);
  const std::optional<MemoryArtifact> artifact = compiler.compile(contexts[0], watcher_of(progress));
  progress.finish();
  if (!artifact) throw Stopped{stop_signal()};
  compiler.save(out, *artifact);
  if (cli.has("keep-lora")) save_lora(cli.require("keep-lora"), compiler.lora());
  report(cli, out, *artifact);
  return 0;
}

}  // namespace

void add_run_compile(Subcommands& program) {
  program.add("compile", kSpec, run_compile);
}

}  // namespace ctxc
