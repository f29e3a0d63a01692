// ctxc-train CONFIG [key=value…]: trains a compressor, or the base itself.
#include <ATen/Parallel.h>

#include <cstdio>
#include <filesystem>

#include "core/cli.h"
#include "core/error.h"
#include "core/log.h"
#include "core/stop.h"
#include "core/text.h"
#include "model/objective.h"
#include "train/compile_run.h"
#include "train/dry_run.h"
#include "train/trainer.h"

namespace ctxc {
namespace {

CliSpec spec() {
  return {
      .program = "ctxc-train",
      .summary = "Trains a compressor on a frozen Llama (or the Llama itself) as a configuration says.",
      .usage = "ctxc-train CONFIG [key=value…]\n       ctxc-train --resume DIR [key=value…]",
      .options = {{"resume", "[DIR]",
                   "go on with the run folder (DIR, or that of CONFIG) where its newest checkpoint is"},
                  {"overwrite", "", "remove what an earlier run wrote into the run folder, and start anew"},
                  {"dry-run", "",
                   "show configuration, data, a decoded batch and the plan; load no weights, write nothing"}},
      .max_positional = 1,
      .overrides = true};
}

template <class T>
void list_registry(const std::string& kind, const Registry<T>& (*registry)()) {
  add_list_kind(kind, [registry] {
    NamesAndHelp lines;
    for (const auto& [name, entry] : registry().entries()) lines.emplace_back(name, entry.help);
    return lines;
  });
}

void register_lists() {
  list_registry<CompressorEntry>(
      "compressors", +[]() -> const Registry<CompressorEntry>& { return compressor_registry(); });
  list_registry<ObjectiveFactory>(
      "objectives", +[]() -> const Registry<ObjectiveFactory>& { return objective_registry(); });
  list_registry<SourceFactory>(
      "data formats", +[]() -> const Registry<SourceFactory>& { return source_registry(); });
  add_list_kind("backbones", [] {
    return NamesAndHelp{
        {"llama", "Hugging Face folder (safetensors) or GGUF file of a Llama; random: made from scratch"}};
  });
}

/// The configuration file, or the one in the folder to resume; overrides applied.
RunConfig read_configuration(const Cli& cli) {
  const std::string folder = cli.get("resume");
  std::string file = cli.positional().empty() ? "" : cli.positional()[0];
  if (file.empty() && !folder.empty()) file = folder + "/config.yaml";
  CTXC_CHECK(!file.empty(), ErrorKind::kUsage, "ctxc-train --help", "no configuration was given");
  RunConfig config = load_run_config(file, cli.overrides());
  if (!folder.empty()) config.run.dir = folder;
  return config;
}

int report(const Cli& cli, const TrainResult& result) {
  if (cli.json()) {
    OrderedJson line{{"steps", result.steps_done},
                     {"of", result.steps},
                     {"loss", result.last_loss},
                     {"checkpoint", result.checkpoint},
                     {"signal", result.signal}};
    if (result.best.step >= 0) line["best"] = {{"step", result.best.step}, {"valid_loss", result.best.loss}};
    fmt::print("{}\n", line.dump());
  }
  if (result.signal) {
    log_info(fmt::format("stopped by signal {} after {} of {} steps; saved {}; go on with --resume",
                         result.signal, result.steps_done, result.steps, result.checkpoint));
    return 128 + result.signal;
  }
  log_info(fmt::format("{} steps done; checkpoint {}", result.steps_done, result.checkpoint));
  return 0;
}

FolderUse folder_use(const Cli& cli) {
  return cli.has("resume")      ? FolderUse::kResume
         : cli.has("overwrite") ? FolderUse::kOverwrite
                                : FolderUse::kNew;
}

/// Texts of data.contexts become memory artifacts.
int compile(const Cli& cli, const RunConfig& config) {
  if (cli.has("dry-run")) {
    const CompilePlan plan = compile_plan(config);
    fmt::print("{}", cli.json() ? plan.json.dump() + "\n" : plan.text);
    return 0;
  }
  install_stop_handlers();
  const CompileRunResult result = compile_contexts(config, folder_use(cli));
  if (cli.json())
    fmt::print("{}\n", OrderedJson{{"contexts", result.contexts},
                                   {"compiled", result.compiled},
                                   {"kept", result.kept},
                                   {"failed", result.failed},
                                   {"signal", result.signal}}
                           .dump());
  log_info(fmt::format("{}: {} contexts compiled, {} were there already{}", config.directory(),
                       result.compiled, result.kept,
                       result.failed > 0 ? fmt::format(", {} failed a gate", result.failed) : std::string()));
  if (result.signal == 0) return 0;
  log_info("stopped by a signal; go on with the next context with --resume");
  return 128 + result.signal;
}

int train(const Cli& cli) {
  if (cli.help()) {
    fmt::print("{}", run_config_help(*cli.help()));
    return 0;
  }
  CTXC_CHECK(!(cli.has("resume") && cli.has("overwrite")), ErrorKind::kUsage, "",
             "--resume and --overwrite exclude each other");
  const RunConfig config = read_configuration(cli);
  if (cli.has("print-config")) {
    fmt::print("{}", dump_config(config));
    return 0;
  }
  if (config.run.threads > 0) at::set_num_threads(static_cast<int>(config.run.threads));
  if (is_per_document(config)) return compile(cli, config);
  if (cli.has("dry-run")) {
    const DryRun plan = dry_run(config);
    fmt::print("{}", cli.json() ? plan.json.dump() + "\n" : plan.text);
    return 0;
  }
  install_stop_handlers();
  Trainer trainer(config, folder_use(cli));
  return report(cli, trainer.run());
}

}  // namespace
}  // namespace ctxc

int main(int argc, char** argv) {
  return ctxc::run_main([&] {
    ctxc::register_lists();
    const ctxc::Cli cli(ctxc::spec(), argc, argv);
    return cli.done() ? 0 : ctxc::train(cli);
  });
}
