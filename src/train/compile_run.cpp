#include "train/compile_run.h"

#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/file.h"
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

/// What decides how a context is compiled. Keys that do not change a memory have their defaults: the run's
/// name, folder and threads, which contexts there are, what is for other methods and programs.
std::string config_hash_of(RunConfig config) {
  const RunConfig defaults;
  config.run.name = config.run.dir = "";
  config.run.threads = defaults.run.threads;
  config.data = defaults.data;
  config.eval = defaults.eval;
  TrainSection& train = config.train;
  train.log_every = defaults.train.log_every;
  train.valid_batches = defaults.train.valid_batches;
  train.samples = defaults.train.samples;
  train.save_every = defaults.train.save_every;
  train.keep = defaults.train.keep;
  train.keep_best = defaults.train.keep_best;
  train.hidden_cache = defaults.train.hidden_cache;
  train.hidden_cache_gb = defaults.train.hidden_cache_gb;
  return sha256_hex(dump_config(config));
}

OrderedJson line_of(const ContextText& context, const std::string& path, const OrderedJson& metrics) {
  return {{"context", context.id}, {"memory", path}, {"metrics", metrics}};
}

int64_t fails_a_gate(const OrderedJson& metrics) {
  return metrics.contains("failed") && !metrics["failed"].empty() ? 1 : 0;
}

/// The record of a finished artifact of this very text and configuration; nothing, and a message, where what
/// is there has to be compiled again.
std::optional<OrderedJson> finished_record(const std::string& path, const ContextText& context,
                                           const std::string& config_hash) {
  if (!fs::exists(path)) return std::nullopt;
  OrderedJson info;
  try {
    info = load_memory(path).info;
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kInput) throw;
    log_warning(fmt::format("{}: compiled again, since its memory is damaged: {}", context.id, error.what()));
    return std::nullopt;
  }
  const auto text_at = [](const OrderedJson& record, const char* key) {
    return record.is_object() && record.contains(key) && record[key].is_string()
               ? record[key].get<std::string>()
               : std::string();
  };
  const OrderedJson source = info.contains("context") ? info["context"] : OrderedJson();
  const bool same_text = text_at(source, "sha256") == sha256_hex(context.text),
             same_config = text_at(info, "config_sha256") == config_hash;
  if (same_text && same_config && info.contains("metrics") && info["metrics"].is_object()) return info;
  log_warning(fmt::format("{}: compiled again over the memory that is there, which is of another {}",
                          context.id, same_text ? "configuration" : "text"));
  return std::nullopt;
}

/// The contexts of a run whose memories are there, as their records.
std::map<std::string, OrderedJson> finished_records(const RunFolder& folder,
                                                    const std::vector<ContextText>& contexts,
                                                    const std::string& config_hash) {
  std::map<std::string, OrderedJson> finished;
  for (const ContextText& context : contexts)
    if (auto info = finished_record(memory_path(folder, context.id), context, config_hash))
      finished.emplace(context.id, std::move(*info));
  return finished;
}

/// Drops the lines about contexts that are compiled now; returns the contexts that the others are about.
std::set<std::string> forget_lines_about(const RunFolder& folder, const char* name,
                                         const std::set<std::string>& compiled) {
  std::set<std::string> about;
  const std::string path = folder.file(name);
  if (!fs::exists(path)) return about;
  std::string kept;
  bool changed = false;
  for_each_line(path, [&](std::string_view line, int64_t) {
    // A killed process may leave half a line.
    const Json value = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    const std::string context = value.is_object() ? value.value("context", std::string()) : std::string();
    if (context.empty() || compiled.contains(context)) {
      changed = true;
      return;
    }
    about.insert(context);
    kept.append(line).push_back('\n');
  });
  if (changed) write_file_atomic(path, kept);
  return about;
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

CompilePlan compile_plan(const RunConfig& config) {
  const CompileInputs inputs(config);
  std::vector<std::vector<std::string>> rows = {{"context", "tokens", "segments", "slots"}};
  CompilePlan plan;
  plan.json["contexts"] = OrderedJson::array();
  for (const ContextText& context : read_contexts(config)) {
    const std::vector<Tokens> parts = inputs.parts_of(context);
    int64_t tokens = 0;
    for (const Tokens& part : parts) tokens += static_cast<int64_t>(part.size());
    const int64_t slots = inputs.slots_of(parts);
    rows.push_back(
        {context.id, fmt::format("{}", tokens), fmt::format("{}", parts.size()), fmt::format("{}", slots)});
    plan.json["contexts"].push_back(
        {{"context", context.id}, {"tokens", tokens}, {"segments", parts.size()}, {"slots", slots}});
  }
  plan.text = dump_config(config) + "\n" + format_table(rows);
  return plan;
}

CompileRunResult compile_contexts(const RunConfig& config, FolderUse use) {
  const std::vector<ContextText> contexts = read_contexts(config);
  const RunFolder folder(config.directory(), use);
  ContextCompiler compiler(config);
  for (const ContextText& context : contexts) compiler.inputs().parts_of(context);  // before hours of work
  folder.begin();
  const std::string hash = config_hash_of(config);
  const bool resumed = use == FolderUse::kResume;
  std::map<std::string, OrderedJson> done;
  if (resumed) done = finished_records(folder, contexts, hash);
  std::set<std::string> missing, listed;
  for (const ContextText& context : contexts)
    if (!done.contains(context.id)) missing.insert(context.id);
  if (resumed) {
    listed = forget_lines_about(folder, "contexts.jsonl", missing);
    forget_lines_about(folder, "log.jsonl", missing);
  }
  write_file_atomic(folder.file("config.yaml"), dump_config(config));
  make_directories(folder.file("memories"));
  JsonLinesFile log(folder.file("log.jsonl"), resumed);
  JsonLinesFile finished(folder.file("contexts.jsonl"), resumed);
  CompileRunResult result;
  result.contexts = static_cast<int64_t>(contexts.size());
  for (const ContextText& context : contexts) {
    const std::string path = memory_path(folder, context.id);
    if (const auto kept = done.find(context.id); kept != done.end()) {
      const OrderedJson& metrics = kept->second["metrics"];
      ++result.kept;
      result.failed += fails_a_gate(metrics);
      // A run that was killed between the memory and its line.
      if (!listed.contains(context.id)) finished.write(line_of(context, path, metrics));
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
    result.failed += fails_a_gate(metrics);
    finished.write(line_of(context, path, metrics));
  }
  result.signal = stop_signal();
  return result;
}

}  // namespace ctxc
