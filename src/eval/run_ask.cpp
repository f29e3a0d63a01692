// ctxc-run ask --memory MEMORY --model PATH QUESTION
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>

#include "core/error.h"
#include "core/json.h"
#include "core/log.h"
#include "core/stop.h"
#include "core/text.h"
#include "data/prompt_record.h"
#include "eval/run_commands.h"
#include "model/generate.h"
#include "model/memory_artifact.h"
#include "model/reading.h"
#include "model/weights.h"

namespace ctxc {
namespace {

using Clock = std::chrono::steady_clock;

const CliSpec kSpec = {
    .summary = "Answers questions from a memory artifact on the frozen base it was made for.",
    .usage = "ctxc-run ask --memory MEMORY --model PATH [QUESTION]",
    .options = {{"memory", "MEMORY", "artifact of ctxc-run compress, compile or compose"},
                {"model", "PATH", "the base model (default: where the memory says)"},
                {"chat", "", "several questions, one a line from standard input, until an empty line"},
                {"max-new-tokens", "N", "longest answer (default 32)"},
                {"raw", "", "the question is read as it is, without the template of the training"},
                {"logits", "FILE", "also write the logits after every token of the question (safetensors)"},
                {"force", "", "go on although the weights' fingerprint differs"}},
    .max_positional = 1};

/// A loaded memory on its base, ready for questions.
class Asker {
 public:
  explicit Asker(const Cli& cli) : cli_(cli), path_(cli.require("memory")), artifact_(load_memory(path_)) {
    const Json info = artifact_.info;
    std::string model = cli.get("model");
    if (model.empty())
      model = json_or<std::string>(json_at<Json>(info, "model", path_), "name_or_path", "", path_);
    CTXC_CHECK(!model.empty(), ErrorKind::kUsage, "name the base with --model",
               "{}: the memory does not name its base", path_);
    // What does not fit is found before a large model is read.
    tokenizer_ = Tokenizer::load(model);
    backbone_ = Backbone::load(model);
    check_memory_fits(artifact_, *backbone_, tokenizer_, cli.has("force"));
    prompt_ = std::make_unique<Prompt>(recorded_prompt(info, path_), tokenizer_);
    memory_ = memory_of(artifact_, *backbone_);
    options_.max_new_tokens = cli.get_int("max-new-tokens", 32);
    CTXC_CHECK(options_.max_new_tokens > 0, ErrorKind::kUsage, "",
               "--max-new-tokens: out of range (found {}, expected at least 1)", options_.max_new_tokens);
    options_.eos = ending_ids(*backbone_, *prompt_);
  }

  void ask(const std::string& question) const {
    const Tokens ids = cli_.has("raw") ? tokenizer_.encode(question) : prompt_->query_ids(question);
    CTXC_CHECK(!ids.empty(), ErrorKind::kUsage, "", "the question is empty");
    const GenerateOptions options = within_window(static_cast<int64_t>(ids.size()));
    const Clock::time_point start = Clock::now();
    const GenerateResult generated = generate(*backbone_, memory_, {0}, {ids}, options);
    const double milliseconds = 1000 * std::chrono::duration<double>(Clock::now() - start).count();
    const std::string answer = cli_.has("raw") ? tokenizer_.decode(generated.tokens[0])
                                               : prompt_->extract_answer(generated.tokens[0]);
    if (cli_.has("logits")) write_logits(ids, cli_.require("logits"));
    const int64_t slots = artifact_.info.value("n_slots", int64_t{0});
    const int64_t context =
        artifact_.info.contains("context") ? artifact_.info["context"].value("n_tokens", int64_t{0}) : 0;
    if (cli_.json()) {
      std::cout << OrderedJson{{"question", question},
                               {"answer", answer},
                               {"context_tokens", context},
                               {"slots", slots},
                               {"question_tokens", ids.size()},
                               {"new_tokens", generated.tokens[0].size()},
                               {"tokens", generated.tokens[0]},
                               {"milliseconds", milliseconds},
                               {"first_token_milliseconds", 1000 * generated.prefill_seconds}}
                       .dump()
                << std::endl;
      return;
    }
    std::cout << answer << std::endl;
    log_info(fmt::format("{} context tokens as {} slots, {} question tokens, {} new tokens, {:.0f} ms",
                         context, slots, ids.size(), generated.tokens[0].size(), milliseconds));
  }

 private:
  /// Answers end where the base's positions do; a question that leaves no room for one is refused.
  GenerateOptions within_window(int64_t question) const {
    const int64_t before = memory_.next_position_B.item<int64_t>() + question;
    const int64_t window = backbone_->config().max_position;
    CTXC_CHECK(before < window, ErrorKind::kInput, "ask a shorter question",
               "memory and question do not fit the base's window (found {} positions and {} tokens, expected "
               "less than {} together)",
               before - question, question, window);
    GenerateOptions options = options_;
    if (before + options.max_new_tokens > window) {
      options.max_new_tokens = window - before;
      log_warning(fmt::format("the answer ends with the base's window, after at most {} tokens",
                              options.max_new_tokens));
    }
    return options;
  }

  /// Logits [1, T, V] after each of the T question tokens, float32, and the ids.
  void write_logits(const Tokens& ids, const std::string& path) const {
    const at::NoGradGuard no_grad;
    const PackedReading reading = pack_reading(*backbone_, memory_, {{.row = 0, .texts = {ids}}});
    const Tensor hidden_PD = backbone_->forward(reading.rows).hidden[0];
    const int64_t count = static_cast<int64_t>(ids.size());
    const Tensor logits_TV =
        backbone_->logits(hidden_PD.slice(0, reading.first[0][0], reading.first[0][0] + count));
    const std::vector<int64_t> wide(ids.begin(), ids.end());
    save_tensors(path, {{"input_ids", at::tensor(wide, at::kLong).unsqueeze(0).contiguous()},
                        {"logits", logits_TV.unsqueeze(0).to(at::kCPU, at::kFloat).contiguous()}});
  }

  const Cli& cli_;
  std::string path_;
  MemoryArtifact artifact_;
  Tokenizer tokenizer_;
  std::shared_ptr<Backbone> backbone_;
  std::unique_ptr<Prompt> prompt_;
  Memory memory_;
  GenerateOptions options_;
};

int run_ask(const Cli& cli) {
  CTXC_CHECK(cli.has("chat") != !cli.positional().empty(), ErrorKind::kUsage,
             "ctxc-run ask --memory MEMORY --model PATH \"Who …?\"", "give one question, or --chat");
  const Asker asker(cli);
  if (!cli.has("chat")) {
    asker.ask(cli.positional().front());
    return 0;
  }
  std::string line;
  while (!stop_requested() && std::getline(std::cin, line) && !trim(line).empty())
    asker.ask(std::string(trim(line)));
  return 0;
}

}  // namespace

void add_run_ask(Subcommands& program) {
  program.add("ask", kSpec, run_ask);
}

}  // namespace ctxc
