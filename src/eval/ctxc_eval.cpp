// ctxc-eval: measures trained methods, scores prediction files, writes reports.
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <map>

#include "core/cli.h"
#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/stop.h"
#include "core/text.h"
#include "eval/benchmark.h"
#include "eval/eval_report.h"
#include "eval/eval_score.h"
#include "eval/readers.h"
#include "eval/results.h"
#include "model/hidden_cache.h"
#include "model/weights.h"
#include "train/run_config.h"
#include "train/setup.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

const CliSpec kSpec = {
    .summary =
        "Measures how well questions are answered from compressed contexts, beside full, none and truncated "
        "ones.",
    .usage = "ctxc-eval CONFIG | --checkpoint DIR [key=value…]",
    .options =
        {{"checkpoint", "DIR",
          "run folder, checkpoint, or ComprExIT checkpoint: the method, and the settings if no CONFIG is "
          "given"},
         {"model", "PATH", "the base model, where it is not where the checkpoint says"},
         {"benchmarks", "NAMES",
          "sets by name, comma-separated (all = the six in-domain ones); same as eval.benchmarks"},
         {"methods", "NAMES",
          "full, none, truncate_head, truncate_tail, bm25, checkpoint, foreign, and the last five =DIR; same "
          "as eval.methods"},
         {"limit", "N", "questions of each set; same as eval.limit"},
         {"out", "DIR", "folder of the results (default: eval/ in the run folder)"}},
    .max_positional = 1,
    .overrides = true};

/// Shots for untrained references are short, so that they leave room in the window the base was trained on.
constexpr int64_t kShotContext = 192, kShotPool = 400;

/// Those that change how a method is built and computed.
std::vector<std::string> of_method(const std::vector<std::string>& overrides) {
  std::vector<std::string> result;
  for (const std::string& text : overrides)
    if (text.starts_with("compressor.") || text.starts_with("run.dtype=")) result.push_back(text);
  return result;
}

/// The settings that the ComprExIT repository's evaluation has (comprexit.md section 9), for its checkpoints.
Yaml peer_settings(const LoadedMethod& method) {
  return Yaml::parse(
             fmt::format(
                 "backbone: {{path: \"{}\"}}\n"
                 "data: {{context_tokens: {}, truncate: tail, char_cut: true, padded: true}}\n"
                 "prompt: {{context_bos: true, split_question: true, answer_extractor: first_sentence_dot}}\n"
                 "eval: {{query_tokens: 64}}\n",
                 method.path, method.padded_length),
             "settings of a ComprExIT checkpoint")
      .with("compressor", method.section);
}

/// The run a checkpoint belongs to: its folder, or itself.
std::string run_folder(const std::string& checkpoint) {
  const fs::path path = fs::path(checkpoint).lexically_normal();
  const fs::path folder = path.filename().empty() ? path.parent_path() : path;
  return folder.parent_path().filename() == "checkpoints" ? folder.parent_path().parent_path().string()
                                                          : folder.string();
}

/// Everything an evaluation needs to know before it loads anything large but the checkpoint itself.
class Evaluation {
 public:
  explicit Evaluation(const Cli& cli) : cli_(cli), overrides_(all_overrides(cli)) {
    const bool has_config = !cli.positional().empty();
    checkpoint_ = cli.get("checkpoint");
    CTXC_CHECK(has_config || !checkpoint_.empty(), ErrorKind::kUsage,
               "ctxc-eval --checkpoint runs/NAME --benchmarks squad",
               "give a configuration or --checkpoint DIR");
    if (has_config) config_ = load_run_config(cli.positional().front(), overrides_);
    if (!checkpoint_.empty())
      load_main(has_config);
    else if (fs::exists(fs::path(config_.directory()) / "checkpoints"))
      checkpoint_ = config_.directory();
    CTXC_CHECK(config_.eval.answers || config_.eval.nll, ErrorKind::kUsage, "set eval.nll=true as well",
               "eval.answers is false and eval.nll too: nothing would be measured");
    plans_ = plan_methods(config_.eval.methods, checkpoint_);
    sets_ = resolve_benchmarks(config_.eval.benchmarks, config_.data.root, config_.data.eval);
    if (config_.run.threads > 0) at::set_num_threads(static_cast<int>(config_.run.threads));
  }

  std::string resolved() const { return dump_config(config_); }

  int run() {
    const std::string out = cli_.get(
        "out",
        (fs::path(checkpoint_.empty() ? config_.directory() : run_folder(checkpoint_)) / "eval").string());
    check_text_sets();
    make_directories(out);
    const DirectoryLock lock(out);
    std::vector<std::string> methods, sets;
    for (const MethodPlan& plan : plans_) methods.push_back(plan.name);
    for (const SourceConfig& set : sets_) sets.push_back(set.name);
    prepare_references();
    EvalResults results(out, methods, sets, header(), config_.eval.bootstrap);
    for (const MethodPlan& plan : plans_) measure(plan, results);
    results.finish();
    const OrderedJson summary = results.summary();
    std::cout << (cli_.json() ? summary.dump() + "\n" : results_markdown(summary));
    if (plans_.size() > 1)
      log_info(
          fmt::format("{}: results.json, results.md; predictions/ and records/ hold the checkpoint's "
                      "answers, those of the "
                      "other methods lie one folder deeper",
                      out));
    else
      log_info(fmt::format("{}: results.json, results.md, predictions/, records/", out));
    return 0;
  }

 private:
  static std::vector<std::string> all_overrides(const Cli& cli) {
    std::vector<std::string> overrides = cli.overrides();
    if (cli.has("benchmarks"))
      overrides.push_back("eval.benchmarks=[" + join(cli.get_list("benchmarks"), ", ") + "]");
    if (cli.has("methods")) {
      // Quoted: folders of checkpoint=DIR may hold what YAML would read otherwise.
      std::vector<std::string> quoted;
      for (const std::string& method : cli.get_list("methods")) quoted.push_back(Json(method).dump());
      overrides.push_back("eval.methods=[" + join(quoted, ", ") + "]");
    }
    if (cli.has("limit")) overrides.push_back("eval.limit=" + cli.get("limit"));
    return overrides;
  }

  /// Plain text has no questions: what needs them is refused before anything is measured.
  void check_text_sets() const {
    const bool ranks =
        std::any_of(plans_.begin(), plans_.end(), [](const MethodPlan& plan) { return plan.kind == "bm25"; });
    if (!ranks && config_.prompt.shots == 0) return;
    for (const SourceConfig& set : sets_)
      CTXC_CHECK(complete_source(set, config_.data.root).format != "text", ErrorKind::kUsage,
                 "evaluate text apart, without them", "{}: plain text has no question, which {}", set.name,
                 ranks ? "bm25 chooses sentences by" : "prompt.shots shows solved examples of");
  }

  BackboneOptions backbone_options() const {
    BackboneOptions options;
    options.dtype = config_.run.dtype;
    options.device = device_of(config_);
    return options;
  }

  void load_main(bool has_config) {
    main_ = load_method(checkpoint_, cli_.get("model"), of_method(overrides_),
                        has_config ? backbone_options() : BackboneOptions{});
    if (!has_config)
      config_ =
          resolve_run_config(main_->config.is_null() ? peer_settings(*main_) : main_->config, overrides_);
    main_->prompt = config_.prompt;
  }

  LoadedMethod load(const MethodPlan& plan) const {
    if (main_ && plan.checkpoint == checkpoint_) return *main_;
    return load_method(plan.checkpoint, cli_.get("model"), {}, backbone_options());
  }

  /// Base, prompt, budget and solved examples, if any method is a reference.
  void prepare_references() {
    if (std::all_of(plans_.begin(), plans_.end(), [](const MethodPlan& plan) { return plan.compresses(); }))
      return;
    if (!main_ && !checkpoint_.empty())
      main_ = load_method(checkpoint_, cli_.get("model"), {}, backbone_options());
    const Tokenizer tokenizer = main_ ? main_->tokenizer : Tokenizer::load(config_.tokenizer_path());
    references_.backbone = main_
                               ? main_->backbone
                               : Backbone::load(cli_.get("model", config_.backbone.path), backbone_options());
    references_.prompt = std::make_shared<const Prompt>(config_.prompt, tokenizer);
    std::shared_ptr<Compressor> budget = main_ ? main_->compressor : nullptr;
    if (!budget)
      budget = make_compressor(
          config_.compressor, compressor_setup(config_, references_.backbone->config(), *references_.prompt));
    references_.slots_for = [budget](int64_t tokens) { return budget->slots_for(tokens); };
    if (config_.prompt.shots > 0) references_.shots = shots();
  }

  std::vector<Shot> shots() const {
    std::vector<SourceConfig> candidates = config_.data.train;
    if (!config_.eval.shots_from.empty()) {
      candidates.assign(1, {});
      candidates[0].path = config_.eval.shots_from;
    }
    CTXC_CHECK(!candidates.empty(), ErrorKind::kUsage, "name a training set in eval.shots_from",
               "prompt.shots is {} but there is no training data to take examples from",
               config_.prompt.shots);
    for (size_t i = 0;; ++i) {
      candidates[i].max_samples = kShotPool;
      try {
        const auto source =
            open_source(candidates[i], config_.data.root, config_.data.rules, *references_.prompt);
        return draw_shots(*source, config_.prompt.shots,
                          std::min(kShotContext, config_.data.rules.context_tokens));
      } catch (const Error& error) {
        // Plain text has no questions: the next training set may.
        if (error.kind() != ErrorKind::kUsage || i + 1 == candidates.size()) throw;
      }
    }
  }

  /// The sets as tokens; made once for every prompt configuration.
  const std::vector<std::shared_ptr<DataSource>>& sources(const Prompt& prompt) {
    const std::string identity = dump_config(prompt.config()) + prompt.tokenizer().fingerprint();
    auto& found = sources_[identity];
    ExampleRules rules = config_.data.rules;
    rules.evaluation = true;
    rules.one_query_per_example = false;
    rules.query_tokens = config_.eval.query_tokens;
    if (found.empty())
      for (const SourceConfig& set : sets_)
        found.push_back(open_source(set, config_.data.root, rules, prompt));
    return found;
  }

  void measure(const MethodPlan& plan, EvalResults& results) {
    std::string identity;
    Reader reader;
    if (!plan.checkpoint.empty()) {
      const LoadedMethod method = load(plan);
      reader = make_checkpoint_reader(plan, method, references_.slots_for);
      identity = method.state.dump() + (method.config.is_null() ? weights_fingerprint(method.path) : "");
    } else {
      reader = make_reference(plan, references_);
      identity += dump_config(config_.prompt) + config_.eval.shots_from;
    }
    std::optional<HiddenCache> cache;
    if (plan.compresses() && !config_.eval.hidden_cache.empty()) {
      cache.emplace(config_.eval.hidden_cache, *reader.backbone,
                    static_cast<uint64_t>(1e9 * config_.eval.hidden_cache_gb));
      reader.hidden_cache = &*cache;
      identity += "\nhidden states rounded";
    }
    if (!config_.eval.answers) identity += "\nno answers";
    if (plan.cuts())
      for (int64_t tokens = 1; tokens <= config_.data.rules.context_tokens; ++tokens)
        identity += fmt::format("{} ", references_.slots_for(tokens));
    if (!reader.backbone->path().empty()) identity += weights_fingerprint(reader.backbone->path());
    const auto& opened = sources(*reader.prompt);
    for (const auto& source : opened) {
      const std::string key = sha256_hex(
          fmt::format("{}\n{}\n{}\n{}\n{}\n{}\n{}{}", plan.name, identity, reader.compressor->config_yaml(),
                      source->fingerprint(), config_.eval.limit, config_.eval.max_new_tokens,
                      config_.eval.bootstrap, config_.eval.nll ? "\nnll" : ""));
      if (results.reuse(plan.name, source->name(), key)) {
        log_info(fmt::format("{} on {}: done before", plan.name, source->name()));
        continue;
      }
      const std::vector<QuestionRef> questions = select_questions(*source, config_.eval.limit);
      Progress progress(fmt::format("{} on {}", plan.name, source->name()),
                        static_cast<int64_t>(questions.size()));
      const SetResult result =
          evaluate(reader, *source, questions, config_.eval,
                   [&](int64_t done, const std::string& so_far) { progress.update(done, so_far); });
      progress.finish();
      results.add(result, key, source->stats());
    }
  }

  OrderedJson header() const {
    OrderedJson header;
    header["format_version"] = 1;
    header["tool"] = std::string(trim(version_text(false)));
    // Neither full nor no context reads anything of a checkpoint.
    if (std::any_of(plans_.begin(), plans_.end(),
                    [](const MethodPlan& plan) { return plan.kind != "full" && plan.kind != "none"; }))
      header["checkpoint"] = main_ ? main_->path : checkpoint_;
    header["model"] = references_.backbone ? references_.backbone->path()
                      : main_              ? main_->backbone->path()
                                           : config_.backbone.path;
    header["limit"] = config_.eval.limit;
    header["context_tokens"] = config_.data.rules.context_tokens;
    header["truncate"] = config_.data.rules.truncate;
    header["max_new_tokens"] = config_.eval.max_new_tokens;
    header["nll"] = config_.eval.nll;
    header["answers"] = config_.eval.answers;
    header["shots"] = config_.prompt.shots;
    header["answer_extractor"] = config_.prompt.answer_extractor;
    header["threads"] = at::get_num_threads();
    header["device"] = config_.run.device;
    return header;
  }

  const Cli& cli_;
  std::vector<std::string> overrides_;
  std::string checkpoint_;
  RunConfig config_;
  std::optional<LoadedMethod> main_;
  std::vector<MethodPlan> plans_;
  std::vector<SourceConfig> sets_;
  ReferenceSetup references_;
  std::map<std::string, std::vector<std::shared_ptr<DataSource>>> sources_;
};

int run_evaluation(const Cli& cli) {
  if (cli.help()) {
    std::cout << run_config_help(*cli.help());
    return 0;
  }
  install_stop_handlers();
  Evaluation evaluation(cli);
  if (cli.has("print-config")) {
    std::cout << evaluation.resolved();
    return 0;
  }
  return evaluation.run();
}

}  // namespace
}  // namespace ctxc

int main(int argc, char** argv) {
  return ctxc::run_main([&] {
    ctxc::Subcommands program("ctxc-eval",
                              "Measures how well questions are answered from compressed contexts.");
    ctxc::add_eval_score(program);
    ctxc::add_eval_report(program);
    program.otherwise(ctxc::kSpec, ctxc::run_evaluation);
    return program.run(argc, argv);
  });
}
