// ctxc-run compile --model M --text FILE --out MEMORY
#include "train/run_compile.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <filesystem>
#include <iostream>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/stop.h"
#include "core/text.h"
#include "train/context_compiler.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

const CliSpec kSpec = {
    .summary = "Compiles one text into a memory artifact that the frozen base reads instead of it (lcc).",
    .usage = "ctxc-run compile --model PATH --text FILE --out MEMORY [key=value…]",
    .options = {{"model", "PATH", "the base model"},
                {"text", "FILE", "the text; - reads standard input"},
                {"out", "MEMORY", "memory artifact to write (one safetensors file)"},
                {"keep-lora", "FILE",
                 "also keep the adapters and buffers that made the memory (safetensors)"},
                {"preset", "NAME", "default, paper or small (a few CPU cores)"},
                {"overwrite", "", "replace an existing --out and --keep-lora"}},
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
  const uint64_t bytes = fs::file_size(out);
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
  if (metrics.contains("segments"))
    log_info(fmt::format("{} segments joined: numbers are means over what each was measured on",
                         metrics["segments"].size()));
  if (!metrics["failed"].empty()) log_info(fmt::format("FAILED {} of its gates", metrics["failed"].size()));
}

/// Before the compile, what would fail behind it: a file that is there …
void refuse_existing(const Cli& cli, const std::string& option) {
  const std::string path = cli.get(option);
  CTXC_CHECK(!fs::exists(path) || cli.has("overwrite"), ErrorKind::kBusy,
             fmt::format("choose another --{}, or add --overwrite", option), "{}: is there already", path);
}

/// … or one that cannot be made.
void check_writable(const std::string& path) {
  const fs::path folder = fs::path(path).parent_path();
  if (!folder.empty()) make_directories(folder.string());
  AtomicFile{path};  // leaves nothing
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
  if (config.run.threads > 0) at::set_num_threads(static_cast<int>(config.run.threads));
  const std::vector<ContextText> contexts = read_contexts(config);
  CTXC_CHECK(contexts.size() == 1, ErrorKind::kUsage, "ctxc-train with data.contexts compiles several",
             "--text holds several contexts (found {}, expected 1)", contexts.size());
  const std::string lora = cli.get("keep-lora");
  CTXC_CHECK(lora.empty() || fs::path(lora).lexically_normal() != fs::path(out).lexically_normal(),
             ErrorKind::kUsage, "name two files", "--keep-lora and --out are the same file: {}", out);
  refuse_existing(cli, "out");
  if (!lora.empty()) refuse_existing(cli, "keep-lora");
  install_stop_handlers();
  ContextCompiler compiler(config);
  compiler.inputs().parts_of(contexts[0]);
  if (!lora.empty()) compiler.keep_lora(contexts[0]);
  check_writable(out);
  if (!lora.empty()) check_writable(lora);
  Progress progress("compile", config.train.steps);
  const std::optional<MemoryArtifact> artifact = compiler.compile(contexts[0], watcher_of(progress));
  progress.finish();
  if (!artifact) throw Stopped{stop_signal()};
  compiler.save(out, *artifact);
  if (!lora.empty()) save_lora(lora, compiler.lora());
  report(cli, out, *artifact);
  return 0;
}

}  // namespace

void add_run_compile(Subcommands& program) {
  program.add("compile", kSpec, run_compile);
}

}  // namespace ctxc
