// ctxc-run compress --checkpoint DIR --text FILE --out MEMORY
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <iostream>
#include <iterator>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "core/text.h"
#include "data/prompt_record.h"
#include "eval/run_commands.h"
#include "model/artifact.h"

namespace ctxc {
namespace {

using Clock = std::chrono::steady_clock;

const CliSpec kSpec = {
    .summary = "Compresses a text into a memory artifact that the frozen base reads instead of it.",
    .usage = "ctxc-run compress --checkpoint DIR --text FILE --out MEMORY",
    .options = {
        {"checkpoint", "DIR", "run folder, checkpoint, or ComprExIT checkpoint"},
        {"model", "PATH", "the base model, where it is not where the checkpoint says"},
        {"text", "FILE", "the text; - reads standard input"},
        {"out", "MEMORY", "memory artifact to write (one safetensors file)"},
        {"max-tokens", "N", "longest text (default: the context length of the training); 0 = no limit"},
        {"overwrite", "", "replace an existing --out"}}};

std::string read_text(const std::string& path) {
  if (path != "-") return read_file(path);
  return {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()};
}

/// data.context_tokens of the training; 512 where nobody says.
int64_t trained_length(const LoadedMethod& method) {
  if (method.padded_length > 0) return method.padded_length;
  const Yaml* data = method.config.is_null() ? nullptr : method.config.find("data");
  const Yaml* tokens = data ? data->find("context_tokens") : nullptr;
  return tokens && !tokens->is_null() ? std::stoll(tokens->scalar()) : 512;
}

bool keeps_tail(const LoadedMethod& method) {
  const Yaml* data = method.config.is_null() ? nullptr : method.config.find("data");
  const Yaml* side = data ? data->find("truncate") : nullptr;
  return side && !side->is_null() && side->scalar() == "tail";
}

/// The text's tokens, cut the way training cut them. `found` = tokens before.
Tokens context_of(const LoadedMethod& method, const Prompt& prompt, const std::string& text, int64_t limit,
                  int64_t& found) {
  Tokens ids = prompt.context_ids(text);
  found = static_cast<int64_t>(ids.size());
  CTXC_CHECK(found > 0, ErrorKind::kInput, "give a text with at least one character",
             "--text: the text is empty");
  if (limit == 0 || found <= limit) return ids;
  if (keeps_tail(method)) return Tokens(ids.end() - limit, ids.end());
  ids.resize(static_cast<size_t>(limit));
  return ids;
}

std::string method_name(const LoadedMethod& method) {
  const Yaml* name = method.section.is_null() ? nullptr : method.section.find("name");
  return name && !name->is_null() ? name->scalar() : "comprexit";
}

int run_compress(const Cli& cli) {
  const std::string checkpoint = cli.require("checkpoint"), text_path = cli.require("text"),
                    out = cli.require("out");
  CTXC_CHECK(!std::filesystem::exists(out) || cli.has("overwrite"), ErrorKind::kBusy,
             "choose another --out, or add --overwrite", "{}: is there already", out);
  const std::string text = read_text(text_path);
  const LoadedMethod method = load_method(checkpoint, cli.get("model"));
  const Prompt prompt(method.prompt, method.tokenizer);
  const int64_t limit = cli.get_int("max-tokens", trained_length(method));
  CTXC_CHECK(limit >= 0, ErrorKind::kUsage, "", "--max-tokens: out of range (found {}, expected at least 0)",
             limit);
  int64_t found = 0;
  const Tokens ids = context_of(method, prompt, text, limit, found);
  const int64_t used = static_cast<int64_t>(ids.size());

  const at::NoGradGuard no_grad;
  const Clock::time_point start = Clock::now();
  Context context(*method.backbone, {ids},
                  std::max(method.padded_length, method.padded_length > 0 ? used : 0));
  const Memory memory = method.compressor->compress(context, {.training = false}).memory;
  MemoryArtifact artifact =
      make_memory_artifact(memory, 0, *method.backbone, method.tokenizer, method_name(method));
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();

  const int64_t slots = artifact.info.value("n_slots", int64_t{0});
  const double ratio = slots > 0 ? static_cast<double>(used) / static_cast<double>(slots) : 0;
  artifact.info["context"] = {{"sha256", sha256_hex(text)}, {"n_tokens", used}, {"truncated", used < found}};
  artifact.info["ratio"] = ratio;
  artifact.info["metrics"] = {{"seconds", seconds}};
  artifact.info["prompt"] = prompt_record(prompt.config());
  artifact.info["resume_text"] = method.prompt.question_prefix;
  const std::filesystem::path parent = std::filesystem::path(out).parent_path();
  if (!parent.empty()) make_directories(parent.string());
  save_memory(out, artifact);

  if (used < found)
    log_warning(fmt::format("the text was cut to {} of its {} tokens (--max-tokens)", used, found));
  if (cli.json()) {
    std::cout << OrderedJson{{"out", out},
                             {"tokens", used},
                             {"source_tokens", found},
                             {"slots", slots},
                             {"ratio", ratio},
                             {"milliseconds", 1000 * seconds},
                             {"bytes", std::filesystem::file_size(out)}}
                     .dump()
              << "\n";
  } else {
    log_info(fmt::format("{}: {} tokens -> {} slots (ratio {:.2f}) in {:.0f} ms, {}", out, used, slots, ratio,
                         1000 * seconds, human_bytes(std::filesystem::file_size(out))));
  }
  return 0;
}

}  // namespace

void add_run_compress(Subcommands& program) {
  program.add("compress", kSpec, run_compress);
}

}  // namespace ctxc
