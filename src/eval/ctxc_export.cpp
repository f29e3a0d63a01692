// ctxc-export: trained methods, backbones and memories in other programs' formats.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <iostream>

#include "core/cli.h"
#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "core/text.h"
#include "eval/exporter.h"

namespace ctxc {
namespace {

const CliSpec kSpec = {
    .program = "ctxc-export",
    .summary = "Writes a run, a checkpoint or a memory artifact in another program's format.",
    .usage = "ctxc-export --in PATH --to TARGET --out PATH",
    .options = {
        {"in", "PATH", "run folder, checkpoint, memory artifact, or (hf) a model"},
        {"to", "TARGET", "format; --list exporters names them"},
        {"out", "PATH", "file or folder to write; appears whole or not at all"},
        {"model", "PATH", "the base model, where it is not where the input says"},
        {"dtype", "TYPE",
         "bf16, f16, f32, or int8 (kv); default: bf16 for hf, f32 for raw, f16 for llamacpp-state, else "
         "as stored"},
        {"offset", "N", "move the keys of a memory by N positions, to stand behind other text"},
        {"llama-state-version", "N", "llamacpp-state: 2, 3 or 4, as your llama.cpp expects"},
        {"llama-state-like", "FILE",
         "llamacpp-state: copy version and layout from a file your llama.cpp saved"},
        {"shard-bytes", "N", "largest weight file of a folder (default 5000000000)"},
        {"llama-flash-attention", "on|off", "llamacpp-state: of the server that will read it (default on)"},
        {"llama-placeholder", "ID", "llamacpp-state: token that stands for a row in prompts (default 0)"},
        {"overwrite", "", "replace what is at --out"}}};

std::string dtype_named(const std::string& text) {
  static const std::vector<std::pair<std::string, std::string>> names = {
      {"", ""},           {"bf16", "bfloat16"}, {"bfloat16", "bfloat16"},
      {"f16", "float16"}, {"fp16", "float16"},  {"float16", "float16"},
      {"f32", "float32"}, {"fp32", "float32"},  {"float32", "float32"},
      {"int8", "int8"}};
  for (const auto& [name, dtype] : names)
    if (name == text) return dtype;
  throw Error(ErrorKind::kUsage,
              fmt::format("--dtype: unknown type (found '{}', expected bf16, f16, f32 or int8)", text));
}

uint64_t bytes_below(const std::string& path) {
  if (std::filesystem::is_regular_file(path)) return std::filesystem::file_size(path);
  uint64_t total = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(path))
    if (entry.is_regular_file()) total += entry.file_size();
  return total;
}

int run(const Cli& cli) {
  const std::string target = cli.require("to");
  ExportRequest request{cli.require("in"), cli.require("out"), cli.get("model"),
                        dtype_named(cli.get("dtype"))};
  const int64_t shard_bytes = cli.get_int("shard-bytes", static_cast<int64_t>(request.shard_bytes));
  CTXC_CHECK(shard_bytes > 0, ErrorKind::kUsage, "",
             "--shard-bytes: out of range (found {}, expected at least 1)", shard_bytes);
  request.shard_bytes = static_cast<uint64_t>(shard_bytes);
  request.offset = cli.get_int("offset", 0);
  if (cli.has("llama-state-version")) request.llama_state_version = cli.get_int("llama-state-version", 0);
  request.llama_state_like = cli.get("llama-state-like");
  request.llama_flash_attention = cli.get("llama-flash-attention");
  if (cli.has("llama-placeholder")) request.llama_placeholder = cli.get_int("llama-placeholder", 0);
  run_export(target, request, cli.has("overwrite"));
  const uint64_t bytes = bytes_below(request.out);
  if (cli.json())
    std::cout << OrderedJson{{"out", request.out}, {"target", target}, {"bytes", bytes}}.dump() << "\n";
  else
    log_info(fmt::format("{}: {} as {}", request.out, human_bytes(bytes), target));
  return 0;
}

}  // namespace
}  // namespace ctxc

int main(int argc, char** argv) {
  return ctxc::run_main([&] {
    ctxc::add_list_kind("exporters", [] {
      ctxc::NamesAndHelp names;
      for (const auto& [name, entry] : ctxc::exporter_registry().entries())
        names.emplace_back(name, entry.help);
      return names;
    });
    const ctxc::Cli cli(ctxc::kSpec, argc, argv);
    return cli.done() ? 0 : ctxc::run(cli);
  });
}
