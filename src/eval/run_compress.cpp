// ctxc-run compress --checkpoint DIR --text FILE --out MEMORY [--stream]
#include <ATen/core/grad_mode.h>
#include <fmt/format.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "core/stop.h"
#include "core/text.h"
#include "data/prompt_record.h"
#include "data/token_stream.h"
#include "eval/run_commands.h"
#include "model/artifact.h"

namespace ctxc {
namespace {

using Clock = std::chrono::steady_clock;

/// A stream is read so many slices a call: what a call costs beside its slices grows with what is kept.
constexpr int64_t kSlicesPerCall = 16;

const CliSpec kSpec = {
    .summary = "Compresses a text into a memory artifact that the frozen base reads instead of it.",
    .usage = "ctxc-run compress --checkpoint DIR --text FILE --out MEMORY [--stream]",
    .options = {
        {"checkpoint", "DIR", "run folder, checkpoint, or ComprExIT checkpoint"},
        {"model", "PATH", "the base model, where it is not where the checkpoint says"},
        {"text", "FILE", "the text; - reads standard input"},
        {"out", "MEMORY", "memory artifact to write (one safetensors file)"},
        {"stream", "", "read a text of any length slice by slice in constant memory, where the method can"},
        {"max-tokens", "N",
         "longest text (default: the context length of the training, without limit for --stream); 0 = no "
         "limit"},
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
  if (keeps_tail(method)) return prompt.context_tail(ids, static_cast<size_t>(limit));
  ids.resize(static_cast<size_t>(limit));
  return ids;
}

std::string method_name(const LoadedMethod& method) {
  const Yaml* name = method.section.is_null() ? nullptr : method.section.find("name");
  return name && !name->is_null() ? name->scalar() : "comprexit";
}

/// What was read, and what it became.
struct Compression {
  MemoryArtifact artifact;
  int64_t used = 0;              ///< tokens
  std::optional<int64_t> found;  ///< tokens of the whole text, where somebody counted
  bool truncated = false;
  std::string sha256;  ///< of the whole text, where it was read
};

Compression compress_whole(const LoadedMethod& method, const Prompt& prompt, const std::string& path,
                           int64_t limit) {
  const std::string text = read_text(path);
  Compression result;
  int64_t found = 0;
  const Tokens ids = context_of(method, prompt, text, limit, found);
  result.used = static_cast<int64_t>(ids.size());
  result.found = found;
  result.truncated = result.used < found;
  result.sha256 = sha256_hex(text);
  Context context(*method.backbone, {ids},
                  std::max(method.padded_length, method.padded_length > 0 ? result.used : 0));
  const Memory memory = method.compressor->compress(context, {.training = false}).memory;
  result.artifact = make_memory_artifact(memory, 0, *method.backbone, method.tokenizer, method_name(method));
  return result;
}

/// The bytes of a file or of standard input, piece by piece.
TokenStream::Reader reader_of(const std::string& path, std::ifstream& file) {
  std::istream* in = &std::cin;
  if (path != "-") {
    file.open(path, std::ios::binary);
    CTXC_CHECK(file.is_open(), ErrorKind::kInput, "check the path", "{}: cannot be read: {}", path,
               std::strerror(errno));
    in = &file;
  }
  return [in, path](char* bytes, size_t size) {
    in->read(bytes, static_cast<std::streamsize>(size));
    CTXC_CHECK(!in->bad(), ErrorKind::kInput, "", "{}: cannot be read to its end", path);
    return static_cast<size_t>(in->gcount());
  };
}

Tokens slice_of(const Tokens& tokens, int64_t first, int64_t count) {
  const auto begin = tokens.begin() + first;
  return {begin, begin + std::min(count, static_cast<int64_t>(tokens.size()) - first)};
}

/// Prompt::context_tail() of a stream, in the memory of what is kept; `found` = tokens of all of it.
Tokens tail_of(TokenStream& stream, int64_t limit, int64_t part, bool bos, int64_t& found) {
  Tokens kept = bos ? stream.next(1) : Tokens();
  found = static_cast<int64_t>(kept.size());
  limit -= found;
  std::deque<TokenId> last;
  for (Tokens some = stream.next(static_cast<size_t>(part)); !some.empty();
       some = stream.next(static_cast<size_t>(part))) {
    if (stop_requested()) throw Stopped{stop_signal()};
    found += static_cast<int64_t>(some.size());
    last.insert(last.end(), some.begin(), some.end());
    if (const auto size = static_cast<int64_t>(last.size()); size > limit)
      last.erase(last.begin(), last.begin() + (size - limit));
  }
  kept.insert(kept.end(), last.begin(), last.end());
  return kept;
}

Compression compress_stream(const LoadedMethod& method, const Prompt& prompt, const std::string& path,
                            int64_t limit) {
  const int64_t part = kSlicesPerCall * method.compressor->stream_tokens();
  CTXC_CHECK(part > 0, ErrorKind::kUsage,
             "leave --stream out, or train a method that streams (progressive with one pass)",
             "--stream: {} reads a text at once", method_name(method));
  if (prompt.config().cleanup != "none")
    log_warning(fmt::format("--stream: prompt.cleanup ({}) is for whole passages and is left out",
                            prompt.config().cleanup));
  install_stop_handlers();
  std::ifstream file;
  TokenStream stream(method.tokenizer, reader_of(path, file),
                     prompt.config().context_bos ? Tokens{*method.tokenizer.bos()} : Tokens{});
  // A pipe or device has no size that could be known: progress is then without a total.
  const bool sized = path != "-" && std::filesystem::is_regular_file(path);
  Progress progress("compress", sized ? static_cast<int64_t>(std::filesystem::file_size(path)) : 0);
  const Clock::time_point start = Clock::now();
  Compression result;
  Compressed last;
  int64_t found = 0;
  // Which tokens are the last ones is known at the end alone: these are kept until then.
  const bool from_tail = limit > 0 && keeps_tail(method);
  const Tokens tail = from_tail ? tail_of(stream, limit, part, prompt.config().context_bos, found) : Tokens();
  while (limit == 0 || result.used < limit) {
    if (stop_requested()) throw Stopped{stop_signal()};  // nothing is written before the end
    const int64_t room = limit == 0 ? part : std::min(part, limit - result.used);
    const Tokens ids = from_tail ? slice_of(tail, result.used, room) : stream.next(static_cast<size_t>(room));
    if (ids.empty()) break;
    result.used += static_cast<int64_t>(ids.size());
    Context context(*method.backbone, {ids});
    last = method.compressor->compress(context, {.training = false}, last.state);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    progress.update(static_cast<int64_t>(stream.bytes()),
                    fmt::format("{} tokens -> {} vectors · {:.0f} tok/s", result.used, last.memory.slots(),
                                static_cast<double>(result.used) / seconds));
  }
  progress.finish();
  CTXC_CHECK(result.used > 0, ErrorKind::kInput, "give a text with at least one character",
             "--text: the text is empty");
  if (stream.cut_inside_a_word())
    log_warning("--stream: a stretch of more than a mebibyte without a space or line was cut inside a word");
  // Nobody counts what was not read.
  const bool read_all = stream.next(1).empty();
  result.truncated = !read_all || (from_tail && result.used < found);
  if (read_all) {
    result.found = from_tail ? found : result.used;
    result.sha256 = stream.sha256();
  }
  result.artifact =
      make_memory_artifact(last.memory, 0, *method.backbone, method.tokenizer, method_name(method));
  return result;
}

void report(const Cli& cli, const std::string& out, const Compression& made, int64_t slots, double seconds) {
  const double ratio = slots > 0 ? static_cast<double>(made.used) / static_cast<double>(slots) : 0;
  const uint64_t bytes = std::filesystem::file_size(out);
  if (made.truncated)
    log_warning(made.found ? fmt::format("the text was cut to {} of its {} tokens (--max-tokens)", made.used,
                                         *made.found)
                           : fmt::format("the text was cut to {} tokens (--max-tokens)", made.used));
  if (cli.json()) {
    OrderedJson line{{"out", out}, {"tokens", made.used}};
    if (made.found) line["source_tokens"] = *made.found;
    line.update({{"slots", slots}, {"ratio", ratio}, {"milliseconds", 1000 * seconds}, {"bytes", bytes}});
    std::cout << line.dump() << "\n";
  } else {
    log_info(fmt::format("{}: {} tokens -> {} slots (ratio {:.2f}) in {:.0f} ms, {}", out, made.used, slots,
                         ratio, 1000 * seconds, human_bytes(bytes)));
  }
}

int run_compress(const Cli& cli) {
  const std::string checkpoint = cli.require("checkpoint"), text_path = cli.require("text"),
                    out = cli.require("out");
  CTXC_CHECK(!std::filesystem::exists(out) || cli.has("overwrite"), ErrorKind::kBusy,
             "choose another --out, or add --overwrite", "{}: is there already", out);
  // Before the model is loaded, which takes longer.
  CTXC_CHECK(text_path == "-" || std::filesystem::exists(text_path), ErrorKind::kInput, "check the path",
             "{}: no such file", text_path);
  CTXC_CHECK(!std::filesystem::is_directory(text_path), ErrorKind::kInput,
             "name one text; - reads standard input", "{}: cannot be read (found a folder, expected a text)",
             text_path);
  const LoadedMethod method = load_method(checkpoint, cli.get("model"));
  const Prompt prompt(method.prompt, method.tokenizer);
  const bool stream = cli.has("stream");
  const int64_t limit = cli.get_int("max-tokens", stream ? 0 : trained_length(method));
  CTXC_CHECK(limit >= 0, ErrorKind::kUsage, "", "--max-tokens: out of range (found {}, expected at least 0)",
             limit);
  const at::NoGradGuard no_grad;
  const Clock::time_point start = Clock::now();
  Compression made = stream ? compress_stream(method, prompt, text_path, limit)
                            : compress_whole(method, prompt, text_path, limit);
  const double seconds = std::chrono::duration<double>(Clock::now() - start).count();

  OrderedJson& info = made.artifact.info;
  const int64_t slots = info.value("n_slots", int64_t{0});
  info["context"] = {{"n_tokens", made.used}, {"truncated", made.truncated}};
  if (!made.sha256.empty()) info["context"]["sha256"] = made.sha256;
  info["ratio"] = slots > 0 ? static_cast<double>(made.used) / static_cast<double>(slots) : 0;
  info["metrics"] = {{"seconds", seconds}};
  info["prompt"] = prompt_record(prompt);
  info["resume_text"] = method.prompt.question_prefix;
  const std::filesystem::path parent = std::filesystem::path(out).parent_path();
  if (!parent.empty()) make_directories(parent.string());
  save_memory(out, made.artifact);
  report(cli, out, made, slots, seconds);
  return 0;
}

}  // namespace

void add_run_compress(Subcommands& program) {
  program.add("compress", kSpec, run_compress);
}

}  // namespace ctxc
