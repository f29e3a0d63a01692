// ctxc-run measure --contexts FILE RUN… : the endpoints of lcc.md section 7. For every context, its questions
// q with the gold answer y (the first accepted one) behind each memory M of the context:
//   KL   mean_q mean_t KL( p(. | context, q, y_<t) || p(. | M, q, y_<t) )
//   NLL  - mean_q mean_t log p(y_t | M, q, y_<t)
//   EM, F1  of the greedy answer to q behind M, against all accepted answers (eval/score.h)
// beside the full context, no context, and the memory of another context (which must not answer). A context
// without questions has the text that follows it instead: its first token is q, the next 64 are y, nothing is
// answered. (Keys and values predict no token by themselves, so one has to be read first.)
// General ability (--general N): random queries that know nothing of the context, answered greedily by the
// base with the whole context; over the tokens of those answers the KL of each memory from the base with and
// without the context, and the share of them that are its first choice too.
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iostream>

#include "core/error.h"
#include "core/file.h"
#include "core/log.h"
#include "core/text.h"
#include "data/prompt_record.h"
#include "eval/score.h"
#include "model/generate.h"
#include "model/memory_artifact.h"
#include "train/compile_items.h"
#include "train/context_text.h"
#include "train/run_compile.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

const CliSpec kSpec = {
    .summary =
        "Measures memories on questions with known answers, or on the text that follows the context: KL to "
        "the full context, NLL of the answer, EM and F1 of greedy answers. Prints a table of means, with "
        "--json a line for every context.",
    .usage = "ctxc-run measure --contexts FILE RUN…",
    .options =
        {{"contexts", "FILE",
          "JSONL of the contexts and their questions (id, context, qas as in MRQA; or continuation: the "
          "text that follows)"},
         {"model", "PATH", "the base model (default: where the memories say)"},
         {"max-new-tokens", "N",
          "longest greedy answer for EM and F1, in tokens (default 20; 0: no answers, which is faster)"},
         {"general", "N",
          "also measure general ability on N random queries that no compile of seed 0 has seen (default 0)"},
         {"out", "FILE", "also write lines of JSON, one a context"}},
    .min_positional = 1,
    .max_positional = 64};

constexpr int64_t kContinuation = 64;   ///< scored tokens of a text that follows its context
constexpr int64_t kGeneralAnswer = 32;  ///< longest answer to a random query

std::string memory_path(const std::string& run, const std::string& id) {
  return (fs::path(run) / "memories" / (id + ".safetensors")).string();
}

std::string name_of_run(const std::string& run) {
  const fs::path path = fs::path(run).lexically_normal();
  return (path.filename().empty() ? path.parent_path() : path).filename().string();
}

/// What is asked behind the memories of one context.
struct Asked {
  std::vector<ReadItem> items;
  std::vector<Question> questions;  ///< of the items, in their order; empty for a continuation
  /// --general: answers of the base with the context, taught by it and by the base without it.
  std::vector<ReadItem> general, general_none;
};

/// Base, prompt and questions of all contexts that every run has a memory of.
class Measurement {
 public:
  explicit Measurement(const Cli& cli)
      : runs_(cli.positional()), max_new_(count_at(cli, "max-new-tokens", 20)) {
    const std::vector<std::string> called = names();
    for (auto name = called.begin(); name != called.end(); ++name)
      CTXC_CHECK(std::find(called.begin(), name, *name) == name, ErrorKind::kUsage,
                 "rows are named by the run's folder: rename one, or measure them one after the other",
                 "two runs are called {}", *name);
    queries_ = unseen_queries(load_queries(""), count_at(cli, "general", 0), 0);
    RunConfig config;
    config.data.contexts = {cli.require("contexts")};
    for (ContextText& context : read_contexts(config)) {
      const bool complete = std::all_of(runs_.begin(), runs_.end(), [&](const std::string& run) {
        return fs::exists(memory_path(run, context.id));
      });
      if (complete && (!context.questions.empty() || !context.continuation.empty()))
        contexts.push_back(std::move(context));
    }
    CTXC_CHECK(!contexts.empty(), ErrorKind::kInput,
               "the ids of the file name the memories: RUN/memories/ID.safetensors, made by ctxc-train",
               "{}: no context with questions or a continuation has a memory in every run",
               cli.require("contexts"));
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
    Asked asked = asked_of(context);
    teach(asked.items, full);
    const Memory none = kv_memory(document.first_rows(document.prefix));
    ask_in_general(full, none, asked);
    OrderedJson line = {
        {"context", context.id}, {"tokens", document.length()}, {"questions", asked.questions.size()}};
    if (asked.questions.empty()) line["continuation"] = asked.items[0].target.size();
    std::vector<Memory> read = {full, none};
    std::vector<int64_t> slots = {0, 0};
    for (const std::string& run : runs_) read.push_back(memory(run, context, &slots.emplace_back()));
    const std::vector<std::vector<Tokens>> said = answers(read, asked);
    for (size_t i = 0; i < read.size(); ++i) {
      const std::string run = i < 2 ? "" : name_of_run(runs_[i - 2]);
      OrderedJson& found = i == 0 ? line["full"] : i == 1 ? line["none"] : line["methods"][run];
      found = numbers(read[i], asked);
      if (!asked.general.empty()) add_general(read[i], asked, found);
      if (!said.empty()) add_scores(said[i], asked, found);
      if (i < 2) continue;
      found["slots"] = slots[i];
      if (&other != &context) line["foreign"][run] = numbers(memory(runs_[i - 2], other, nullptr), asked);
    }
    return line;
  }

  std::vector<ContextText> contexts;

  std::vector<std::string> names() const {
    std::vector<std::string> names;
    for (const std::string& run : runs_) names.push_back(name_of_run(run));
    return names;
  }

 private:
  static int64_t count_at(const Cli& cli, const char* option, int64_t absent) {
    const int64_t count = cli.get_int(option, absent);
    CTXC_CHECK(count >= 0, ErrorKind::kUsage, "", "--{}: wrong value (found {}, expected at least 0)", option,
               count);
    return count;
  }

  /// Greedy answers of the base behind every row of the memory to all items, row after row.
  std::vector<Tokens> greedy(const Memory& memory, const std::vector<ReadItem>& items,
                             int64_t longest) const {
    GenerateOptions options;
    options.max_new_tokens = longest;
    options.eos = ending_ids(*backbone_, *prompt_);
    std::vector<Tokens> prompts;
    std::vector<int64_t> rows;
    for (int64_t row = 0; row < memory.batch(); ++row) {
      for (const ReadItem& item : items) {
        rows.push_back(row);
        prompts.push_back(item.prompt);
      }
    }
    return generate(*backbone_, memory, rows, prompts, options).tokens;
  }

  /// The greedy answers to the questions behind each memory; none where nothing is to be answered. Memories
  /// of keys and values are decoded as one batch: a step reads the weights once, whatever the rows.
  std::vector<std::vector<Tokens>> answers(const std::vector<Memory>& memories, const Asked& asked) const {
    if (max_new_ == 0 || asked.questions.empty()) return {};
    std::vector<std::vector<Tokens>> said(memories.size());
    std::vector<size_t> rows;  // of the batch, as memories
    std::vector<Memory> batch;
    for (size_t i = 0; i < memories.size(); ++i) {
      if (memories[i].kv.empty()) {
        said[i] = greedy(memories[i], asked.items, max_new_);
      } else {
        rows.push_back(i);
        batch.push_back(memories[i]);
      }
    }
    const std::vector<Tokens> all = greedy(stacked(batch), asked.items, max_new_);
    const auto questions = static_cast<std::ptrdiff_t>(asked.items.size());
    for (size_t row = 0; row < rows.size(); ++row) {
      const auto first = all.begin() + static_cast<std::ptrdiff_t>(row) * questions;
      said[rows[row]].assign(first, first + questions);
    }
    return said;
  }

  static std::vector<const ReadItem*> pointers(const std::vector<ReadItem>& items) {
    std::vector<const ReadItem*> all;
    for (const ReadItem& item : items) all.push_back(&item);
    return all;
  }

  /// What the base says behind `memory`, all items in one pass.
  void teach(std::vector<ReadItem>& items, const Memory& memory) const {
    const Tensor states_MD = predicting_states(*backbone_, memory, pointers(items));
    int64_t begin = 0;
    for (ReadItem& item : items) {
      const auto count = static_cast<int64_t>(item.target.size());
      item.teacher_ND = states_MD.narrow(0, begin, count);
      begin += count;
    }
  }

  void ask_in_general(const Memory& full, const Memory& none, Asked& asked) const {
    if (queries_.empty()) return;
    for (const std::string& query : queries_) asked.general.push_back({prompt_->query_ids(query), {}, {}});
    const std::vector<Tokens> answers = greedy(full, asked.general, kGeneralAnswer);
    for (size_t i = 0; i < answers.size(); ++i) asked.general[i].target = answers[i];
    asked.general_none = asked.general;
    teach(asked.general, full);
    teach(asked.general_none, none);
  }

  Asked asked_of(const ContextText& context) const {
    Asked asked;
    for (const Question& question : context.questions) {
      asked.items.push_back(
          {prompt_->query_ids(question.text), prompt_->answer_ids(question.answers.at(0)), {}});
      asked.questions.push_back(question);
    }
    if (!asked.items.empty()) return asked;
    const Tokens next = tokenizer_.encode(context.continuation);
    CTXC_CHECK(static_cast<int64_t>(next.size()) > kContinuation, ErrorKind::kInput,
               "give more of the text that follows",
               "{}: the continuation is too short (found {} tokens, expected at least {})", context.id,
               next.size(), kContinuation + 1);
    asked.items.push_back({{next[0]}, Tokens(next.begin() + 1, next.begin() + 1 + kContinuation), {}});
    return asked;
  }

  /// The run's memory of the context; ids name files, so what it was made of is compared as well.
  Memory memory(const std::string& run, const ContextText& context, int64_t* slots) const {
    const std::string path = memory_path(run, context.id);
    const MemoryArtifact artifact = load_memory(path);
    const Json info = artifact.info;
    const Json made_of = info.contains("context") ? info["context"].value("sha256", Json()) : Json();
    CTXC_CHECK(!made_of.is_string() || made_of == sha256_hex(context.text), ErrorKind::kInput,
               "compile the contexts of this file, or measure with the file that the run was made with",
               "{}: is the memory of another text than context {} of the file", path, context.id);
    check_memory_fits(artifact, *backbone_, tokenizer_, false);
    CTXC_CHECK(prompt_record(recorded_prompt(artifact.info, path)) == record_, ErrorKind::kInput,
               "measure runs of one prompt at a time", "{}: was made for another prompt than {}", path,
               memory_path(runs_[0], contexts[0].id));
    if (slots) *slots = artifact.rows() - artifact.header();
    return memory_of(artifact, *backbone_);
  }

  OrderedJson numbers(const Memory& memory, const Asked& asked) const {
    const ItemNumbers found = measure_items(*backbone_, memory, pointers(asked.items), backbone_->head_VD());
    return {{"kl", found.kl_N.mean().item<double>()}, {"nll", found.nll_N.mean().item<double>()}};
  }

  void add_scores(const std::vector<Tokens>& said, const Asked& asked, OrderedJson& numbers) const {
    Score sum;
    for (size_t i = 0; i < said.size(); ++i) {
      const Score score = score_answer(prompt_->extract_answer(said[i]), asked.questions[i].answers);
      sum.exact_match += score.exact_match;
      sum.f1 += score.f1;
    }
    numbers["em"] = sum.exact_match / static_cast<double>(said.size());
    numbers["f1"] = sum.f1 / static_cast<double>(said.size());
  }

  void add_general(const Memory& memory, const Asked& asked, OrderedJson& numbers) const {
    const std::vector<const ReadItem*> items = pointers(asked.general);
    const Tensor states_MD = predicting_states(*backbone_, memory, items), head_VD = backbone_->head_VD();
    const auto kl_of = [&](const std::vector<ReadItem>& taught) {
      return measure_states(states_MD, pointers(taught), head_VD).kl_N.mean().item<double>();
    };
    numbers["general_kl"] = kl_of(asked.general);
    numbers["general_kl_none"] = kl_of(asked.general_none);
    std::vector<int64_t> targets;
    for (const ReadItem& item : asked.general)
      targets.insert(targets.end(), item.target.begin(), item.target.end());
    const Tensor first_M = backbone_->logits(states_MD).argmax(-1).cpu();
    const Tensor equal_M = first_M.eq(at::tensor(targets, at::kLong)).to(at::kDouble);
    numbers["general_agreement"] = item_means(equal_M, items).mean().item<double>();
  }

  std::vector<std::string> runs_;
  int64_t max_new_;
  std::vector<std::string> queries_;  ///< of --general
  Tokenizer tokenizer_;
  std::shared_ptr<Backbone> backbone_;
  std::unique_ptr<Prompt> prompt_;
  OrderedJson record_;
};

/// Means over contexts; scores in percent.
std::string table_of(const std::vector<OrderedJson>& lines, const std::vector<std::string>& methods) {
  std::vector<std::vector<std::string>> rows = {{"memory", "slots", "KL", "NLL", "EM", "F1"}};
  const bool general = lines[0].at("full").contains("general_kl");
  std::vector<const char*> keys = {"slots", "kl", "nll", "em", "f1"};
  if (general) {
    rows[0].insert(rows[0].end(), {"general KL", "from no context", "agreement"});
    keys.insert(keys.end(), {"general_kl", "general_kl_none", "general_agreement"});
  }
  const auto row = [&](const std::string& name,
                       const std::function<const OrderedJson*(const OrderedJson&)>& at) {
    std::vector<std::string> cells = {name};
    for (const char* key : keys) {
      const std::string_view text(key);
      const bool percent = text == "em" || text == "f1" || text == "general_agreement";
      double sum = 0;
      int64_t count = 0;
      for (const OrderedJson& line : lines) {
        const OrderedJson* numbers = at(line);
        if (!numbers || !numbers->contains(key)) continue;
        sum += numbers->at(key).get<double>();
        ++count;
      }
      const double mean = sum / static_cast<double>(std::max<int64_t>(1, count));
      cells.push_back(count == 0                         ? ""
                      : percent                          ? fmt::format("{:.1f}", 100 * mean)
                      : std::string_view(key) == "slots" ? fmt::format("{:.1f}", mean)
                                                         : fmt::format("{:.3f}", mean));
    }
    rows.push_back(cells);
  };
  row("full", [](const OrderedJson& line) { return &line.at("full"); });
  row("none", [](const OrderedJson& line) { return &line.at("none"); });
  for (const std::string& name : methods) {
    row(name, [&](const OrderedJson& line) { return &line.at("methods").at(name); });
    row(name + " of another context", [&](const OrderedJson& line) {
      return line.contains("foreign") ? &line.at("foreign").at(name) : nullptr;
    });
  }
  return fmt::format("{} contexts\n", lines.size()) + format_table(rows);
}

int run_measure(const Cli& cli) {
  const Measurement measurement(cli);
  const std::vector<ContextText>& contexts = measurement.contexts;
  std::vector<OrderedJson> found;
  std::string lines;
  for (size_t i = 0; i < contexts.size(); ++i) {
    found.push_back(measurement.measure(contexts[i], contexts[(i + 1) % contexts.size()]));
    lines += found.back().dump() + "\n";
    log_info(fmt::format("{}: measured ({} of {})", contexts[i].id, i + 1, contexts.size()));
  }
  if (cli.has("out")) write_file_atomic(cli.require("out"), lines);
  std::cout << (cli.json() ? lines : table_of(found, measurement.names()));
  return 0;
}

}  // namespace

void add_run_measure(Subcommands& program) {
  program.add("measure", kSpec, run_measure);
}

}  // namespace ctxc
