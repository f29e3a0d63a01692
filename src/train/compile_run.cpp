#include "train/compile_run.h"

#include <filesystem>

#include "core/error.h"
#include "core/log.h"
#include "core/stop.h"
#include "core/text.h"
#include "train/context_compiler.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

std::string memory_path(const RunFolder& folder, const std::string& id) {
  return folder.file("memories/" + id + ".safetensors");
}

/// A finished artifact of this very text and configuration.
bool is_done(const std::string& path, const ContextText& context, const std::string& config_hash) {
  if (!fs::exists(path)) return false;
  const Json info = load_memory(path).info;
  return info.contains("context") && info["context"].value("sha256", "") == sha256_hex(context.text) &&
         info.value("config_sha256", "") == config_hash;
}

/// What decides how a context is compiled: all but the run's name and folder, and which contexts there are.
std::string config_hash_of(RunConfig config) {
  config.run.name = config.run.dir = config.data.root = "";
  config.data.contexts.clear();
  return sha256_hex(dump_config(config));
}

/// Log lines and the progress line of one context.
CompileWatcher watch(const ContextText& context, JsonLinesFile& log, Progress& progress) {
  CompileWatcher watcher;
  watcher.answered = [&](int64_t done, int64_t of) {
    log_info(fmt::format("{}: the teacher has answered {} of {} queries", context.id, done, of));
  };
  watcher.step = [&](const CompileStep& step, int64_t) {
    log.write({{"context", context.id},
               {"step", step.step},
               {"lambda", step.lambda},
               {"loss", step.loss},
               {"align", step.align},
               {"recon", step.recon},
               {"grad_norm", step.grad_norm},
               {"seconds", step.seconds}});
    progress.update(step.step + 1, fmt::format("loss {:.4f} · KL {:.4f} · recon {:.4f} · {:.2f} s", step.loss,
                                               step.align, step.recon, step.seconds));
  };
  watcher.check = [&](const CompileCheck& check) {
    log.write({{"context", context.id},
               {"step", check.step},
               {"lambda", check.lambda},
               {"heldout_kl", check.numbers.kl_q},
               {"probe_nll", check.numbers.nll_m}});
    log_info(fmt::format("{}: step {}: KL on held-out queries {:.4f}, NLL of the probes {:.4f}", context.id,
                         check.step, check.numbers.kl_q, check.numbers.nll_m));
  };
  return watcher;
}

}  // namespace

bool is_per_document(const RunConfig& config) {
  return compressor_registry().at(config.compressor.find("name")->scalar()).factory.scope ==
         Scope::kPerDocument;
}

std::string compile_plan(const RunConfig& config) {
  const Prompt prompt(config.prompt, Tokenizer::load(config.tokenizer_path()));
  const auto method = make_compressor(
      config.compressor, {.backbone = config.llama(prompt.tokenizer().vocab_size()), .head_ids = {}});
  std::vector<std::vector<std::string>> rows = {{"context", "tokens", "slots"}};
  for (const ContextText& context : read_contexts(config)) {
    const int64_t tokens = static_cast<int64_t>(prompt.context_ids(context.text).size());
    rows.push_back({context.id, fmt::format("{}", tokens), fmt::format("{}", method->slots_for(tokens))});
  }
  return dump_config(config) + "\n" + format_table(rows);
}

CompileRunResult compile_contexts(const RunConfig& config, FolderUse use) {
  const std::vector<ContextText> contexts = read_contexts(config);
  const RunFolder folder(config.directory(), use);
  ContextCompiler compiler(config);
  for (const ContextText& context : contexts) compiler.inputs().parts_of(context);  // before hours of work
  folder.begin();
  const std::string hash = config_hash_of(config);
  write_file_atomic(folder.file("config.yaml"), dump_config(config));
  make_directories(folder.file("memories"));
  JsonLinesFile log(folder.file("log.jsonl"), use == FolderUse::kResume);
  JsonLinesFile finished(folder.file("contexts.jsonl"), use == FolderUse::kResume);
  CompileRunResult result;
  result.contexts = static_cast<int64_t>(contexts.size());
  for (const ContextText& context : contexts) {
    const std::string path = memory_path(folder, context.id);
    if (use == FolderUse::kResume && is_done(path, context, hash)) {
      ++result.kept;
      continue;
    }
    if (stop_requested()) break;
    Progress progress(
        fmt::format("{} ({} of {})", context.id, result.kept + result.compiled + 1, contexts.size()),
        config.train.steps);
    std::optional<MemoryArtifact> artifact = compiler.compile(context, watch(context, log, progress));
    progress.finish();
    if (!artifact) break;
    artifact->info["config_sha256"] = hash;
    compiler.save(path, *artifact);
    ++result.compiled;
    const OrderedJson& metrics = artifact->info["metrics"];
    result.failed += metrics.contains("failed") && !metrics["failed"].empty();
    finished.write({{"context", context.id}, {"memory", path}, {"metrics", metrics}});
  }
  result.signal = stop_signal();
  return result;
}

}  // namespace ctxc
