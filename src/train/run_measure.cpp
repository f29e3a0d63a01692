// ctxc-run measure --contexts FILE RUN… : the primary endpoints of lcc.md section 7. For every context, its
// questions q with the gold answer y (the first accepted one) behind each memory M of the context:
//   KL   mean_q mean_t KL( p(. | context, q, y_<t) || p(. | M, q, y_<t) )
//   NLL  - mean_q mean_t log p(y_t | M, q, y_<t)
// beside the full context, no context, and the memory of another context (which must not answer).
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iostream>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "data/prompt_record.h"
#include "train/compile_items.h"
#include "train/context_compiler.h"
#include "train/run_compile.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

const CliSpec kSpec = {
    .summary =
        "Measures memories on questions with known answers: KL to the full context, NLL of the answer.",
    .usage = "ctxc-run measure --contexts FILE RUN…",
    .options = {{"contexts", "FILE",
                 "JSONL of the contexts and their questions (id, context, qas as in MRQA)"},
                {"model", "PATH", "the base model (default: where the memories say)"},
                {"out", "FILE", "lines of JSON, one a context (default: standard output)"}},
    .min_positional = 1,
    .max_positional = 64};

std::string memory_path(const std::string& run, const std::string& id) {
  return (fs::path(run) / "memories" / (id + ".safetensors")).string();
}

std::string name_of_run(const std::string& run) {
  const fs::path path = fs::path(run).lexically_normal();
  return (path.filename().empty() ? path.parent_path() : path).filename().string();
}

/// Base, prompt and questions of all contexts that every run has a memory of.
class Measurement {
 public:
  explicit Measurement(const Cli& cli) : runs_(cli.positional()) {
    RunConfig config;
    config.data.contexts = {cli.require("contexts")};
    for (ContextText& context : read_contexts(config)) {
      const bool complete = std::all_of(runs_.begin(), runs_.end(), [&](const std::string& run) {
        return fs::exists(memory_path(run, context.id));
      });
      if (complete && !context.questions.empty()) contexts.push_back(std::move(context));
    }
    CTXC_CHECK(!contexts.empty(), ErrorKind::kInput,
               "the ids of the file name the memories: RUN/memories/ID.safetensors, made by ctxc-train",
               "{}: no context with questions has a memory in every run", cli.require("contexts"));
    const std::string first = memory_path(runs_[0], contexts[0].id);
    const Json info = load_memory(first).info;
    std::string model = cli.get("model");
    if (model.empty())
      model = json_at<std::string>(json_at<Json>(info, "model", first), "name_or_path", first);
    tokenizer_ = Tokenizer::load(model);
    backbone_ = Backbone::load(model);
    prompt_ = std::make_unique<Prompt>(recorded_prompt(info, first), tokenizer_);
    record_ = OrderedJson(prompt_record(prompt_->config()));
  }

  /// One line of the report. `other`: the context whose memories are asked the wrong questions.
  OrderedJson measure(const ContextText& context, const ContextText& other) const {
    const at::NoGradGuard no_grad;
    const Document document =
        read_document(*backbone_, prompt_->head_ids(), prompt_->context_ids(context.text));
    const Memory full = kv_memory(document.frozen);
    std::vector<ReadItem> items;
    for (const Question& question : context.questions)
      items.push_back({prompt_->query_ids(question.text), prompt_->answer_ids(question.answers.at(0)), {}});
    for (ReadItem& item : items) item.teacher_ND = predicting_states(*backbone_, full, {&item});
    OrderedJson line = {{"context", context.id},
                        {"tokens", document.length()},
                        {"questions", items.size()},
                        {"full", numbers(full, items)},
                        {"none", numbers(kv_memory(document.first_rows(document.prefix)), items)}};
    for (const std::string& run : runs_) {
      const std::string name = name_of_run(run);
      int64_t slots = 0;
      line["methods"][name] = numbers(memory(memory_path(run, context.id), &slots), items);
      line["methods"][name]["slots"] = slots;
      if (&other != &context)
        line["foreign"][name] = numbers(memory(memory_path(run, other.id), nullptr), items);
    }
    return line;
  }

  std::vector<ContextText> contexts;

 private:
  Memory memory(const std::string& path, int64_t* slots) const {
    const MemoryArtifact artifact = load_memory(path);
    check_memory_fits(artifact, *backbone_, tokenizer_, false);
    CTXC_CHECK(prompt_record(recorded_prompt(artifact.info, path)) == record_, ErrorKind::kInput,
               "measure runs of one prompt at a time", "{}: was made for another prompt than {}", path,
               memory_path(runs_[0], contexts[0].id));
    if (slots) *slots = artifact.rows() - artifact.header();
    return memory_of(artifact, *backbone_);
  }

  OrderedJson numbers(const Memory& memory, const std::vector<ReadItem>& items) const {
    std::vector<const ReadItem*> all;
    for (const ReadItem& item : items) all.push_back(&item);
    const ItemNumbers found = measure_items(*backbone_, memory, all, backbone_->head_VD());
    return {{"kl", found.kl_N.mean().item<double>()}, {"nll", found.nll_N.mean().item<double>()}};
  }

  std::vector<std::string> runs_;
  Tokenizer tokenizer_;
  std::shared_ptr<Backbone> backbone_;
  std::unique_ptr<Prompt> prompt_;
  OrderedJson record_;
};

int run_measure(const Cli& cli) {
  const Measurement measurement(cli);
  const std::vector<ContextText>& contexts = measurement.contexts;
  std::string lines;
  for (size_t i = 0; i < contexts.size(); ++i) {
    lines += measurement.measure(contexts[i], contexts[(i + 1) % contexts.size()]).dump() + "\n";
    log_info(fmt::format("{}: measured ({} of {})", contexts[i].id, i + 1, contexts.size()));
  }
  if (cli.has("out"))
    write_file_atomic(cli.require("out"), lines);
  else
    std::cout << lines;
  return 0;
}

}  // namespace

void add_run_measure(Subcommands& program) {
  program.add("measure", kSpec, run_measure);
}

}  // namespace ctxc
