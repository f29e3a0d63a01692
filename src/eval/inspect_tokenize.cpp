#include <cstdio>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/log.h"
#include "data/tokenizer.h"
#include "eval/inspect.h"

namespace ctxc {
namespace {

int tokenize(const Cli& cli) {
  const std::string in = cli.require("in"), out = cli.require("out");
  const Tokenizer tokenizer = Tokenizer::load(cli.require("model"));
  Json cases = read_json_file(in);
  CTXC_CHECK(cases.is_array(), ErrorKind::kInput, "", "{}: not a list (expected [{{\"text\": …}}, …])", in);
  int64_t tokens = 0;
  for (Json& entry : cases) {
    const Tokens ids = tokenizer.encode(json_at<std::string>(entry, "text", in), cli.has("special"));
    tokens += static_cast<int64_t>(ids.size());
    entry["ids"] = ids;
  }
  write_file_atomic(out, cases.dump() + "\n");
  if (cli.json()) fmt::print("{}\n", Json{{"texts", cases.size()}, {"tokens", tokens}}.dump());
  log_info(fmt::format("{}: {} texts, {} tokens", out, cases.size(), tokens));
  return 0;
}

}  // namespace

void add_inspect_tokenize(Subcommands& program) {
  program.add(
      "tokenize",
      {.summary =
           "Writes the token ids of the texts in a JSON list of {\"text\": …} as \"ids\" beside each text.",
       .usage = "ctxc-inspect tokenize --model DIR_OR_GGUF --in FILE.json --out OUT.json [--special]",
       .options = {{"model", "DIR_OR_GGUF", "Hugging Face folder, tokenizer.json or GGUF file"},
                   {"in", "FILE", "JSON list of {\"text\": …}"},
                   {"out", "FILE", "where the list with \"ids\" goes"},
                   {"special", "", "add what the tokenizer's post-processor adds (BOS, for most)"}}},
      tokenize);
}

}  // namespace ctxc
