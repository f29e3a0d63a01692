// Encodes the texts of a JSON list one after another in one thread and prints the best MB/s of some rounds.
// Run by tokenizer_bench.py, which pairs it with the Python package.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "core/cli.h"
#include "core/json.h"
#include "data/tokenizer.h"

namespace {

int bench(const ctxc::Cli& cli) {
  const auto tokenizer = ctxc::Tokenizer::load(cli.require("model"));
  const ctxc::Json texts = ctxc::read_json_file(cli.require("in"));
  double best = 0;
  size_t tokens = 0;
  for (int64_t round = 0; round < cli.get_int("rounds", 3); ++round) {
    size_t bytes = 0;
    tokens = 0;
    const auto start = std::chrono::steady_clock::now();
    for (const ctxc::Json& text : texts) {
      const auto& content = text.get_ref<const std::string&>();
      bytes += content.size();
      tokens += tokenizer.encode(content).size();
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    best = std::max(best, static_cast<double>(bytes) / 1e6 / seconds.count());
  }
  fmt::print("{}\n", ctxc::Json{{"mb_per_s", best}, {"tokens", tokens}}.dump());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return ctxc::run_main([&] {
    const ctxc::Cli cli({.program = "tokenizer_bench",
                         .summary = "Times Tokenizer::encode.",
                         .usage = "tokenizer_bench --model DIR_OR_GGUF --in TEXTS.json [--rounds N]",
                         .options = {{"model", "DIR_OR_GGUF", "tokenizer"},
                                     {"in", "FILE", "JSON list of strings"},
                                     {"rounds", "N", "the best one counts"}}},
                        argc, argv);
    return cli.done() ? 0 : bench(cli);
  });
}
