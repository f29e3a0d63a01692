// Runs over contexts: what is refused before the first step, the plan, and resuming.
#include <filesystem>

#include "compile_fixture.h"
#include "core/file.h"
#include "throws.h"
#include "train/compile_run.h"
#include "train/context_compiler.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;
using testing::Compile;
using testing::expect_error;
using testing::kText;

TEST_F(Compile, BadInputsAreRefused) {
  const auto compile = [&](const std::string& text, const std::vector<std::string>& overrides = {}) {
    const RunConfig settings = config(overrides);
    ContextCompiler(settings).compile({"a", text}, {});
  };
  expect_error(ErrorKind::kInput, "context is empty", [&] { compile(""); });
  expect_error(ErrorKind::kInput, "a: the context is too short to compile", [&] { compile("Ada"); });
  expect_error(ErrorKind::kInput, "special token",
               [&] { compile(std::string(kText) + "<|endoftext|>" + kText); });
  std::string longer;
  for (int i = 0; i < 30; ++i) longer += kText;
  expect_error(ErrorKind::kInput, "a: the context does not fit the window", [&] { compile(longer); });
  expect_error(ErrorKind::kUsage, "bank of random queries is too small",
               [&] { compile(kText, {"queries.count=20"}); });
  expect_error(ErrorKind::kUsage, "one context at a time",
               [&] { compile(kText, {"compressor={name: full}"}); });
  testing::write_text(folder_ / "empty.txt", " \n");
  expect_error(ErrorKind::kInput, "empty.txt: the context is empty",
               [&] { read_contexts(config({}, "empty.txt")); });
  expect_error(ErrorKind::kInput, "absent.txt: no such file",
               [&] { read_contexts(config({}, "absent.txt")); });
  expect_error(ErrorKind::kUsage, "data.contexts is empty", [&] { read_contexts(config({}, "")); });
  // One bad context among several: named before the first is compiled, by the plan as well.
  testing::write_text(folder_ / "short.txt", "Ada");
  const RunConfig several = config({}, "a.txt, short.txt");
  expect_error(ErrorKind::kInput, "short: the context is too short", [&] { compile_plan(several); });
  expect_error(ErrorKind::kInput, "short: the context is too short",
               [&] { compile_contexts(several, FolderUse::kNew); });
  EXPECT_FALSE(fs::exists(folder_ / "run/memories"));
  // What no artifact can hold is no matter of the text.
  expect_error(ErrorKind::kUsage, "int8 is for keys and values", [&] {
    CompileInputs(config({"compressor.artifact=embeds", "compressor.storage=int8"}));
  });
}

TEST_F(Compile, ThePlanCutsAsTheCompileDoes) {
  const RunConfig settings = config({"compressor.segment_tokens=40", "compressor.ratio=20"});
  const CompilePlan plan = compile_plan(settings);
  const CompileInputs inputs(settings);
  const std::vector<Tokens> parts = inputs.parts_of({"a", kText});
  const OrderedJson& line = plan.json["contexts"][0];
  EXPECT_EQ(line["context"], "a");
  EXPECT_EQ(line["segments"], parts.size());
  EXPECT_EQ(line["slots"], inputs.slots_of(parts));
  EXPECT_GT(inputs.slots_of(parts), inputs.method().slots_for(line["tokens"].get<int64_t>()));
  EXPECT_NE(plan.text.find("| segments"), std::string::npos);
}

TEST_F(Compile, ContextsOfJsonLinesGetNamesOfTheirOwn) {
  testing::write_text(folder_ / "b.jsonl",
                      "{\"id\": \"x/y\", \"text\": \"one\"}\n\n{\"context\": \"two\"}\n{\"id\": \"x/y\", "
                      "\"text\": \"three\"}\n");
  const std::vector<ContextText> contexts = read_contexts(config({}, "b.jsonl, a.txt"));
  std::vector<std::string> ids;
  for (const ContextText& context : contexts) ids.push_back(context.id);
  EXPECT_EQ(ids, (std::vector<std::string>{"x-y", "b-3", "x-y-2", "a"}));
  testing::write_text(folder_ / "d.jsonl", "{\"context\": \"one\", \"continuation\": \" and two\"}\n");
  EXPECT_EQ(read_contexts(config({}, "d.jsonl")).at(0).continuation, " and two");
  testing::write_text(folder_ / "c.jsonl", "{\"title\": \"x\"}\n");
  expect_error(ErrorKind::kInput, "c.jsonl:1", [&] { read_contexts(config({}, "c.jsonl")); });
}

TEST_F(Compile, AnInterruptedRunGoesOnWithTheNextContext) {
  testing::write_text(folder_ / "b.txt", std::string("Tom knows this. ") + kText);
  const RunConfig settings = config({"train.steps=2", "train.valid_every=1"}, "a.txt, b.txt");
  const CompileRunResult all = compile_contexts(settings, FolderUse::kNew);
  EXPECT_EQ(all.compiled, 2);
  const fs::path a = folder_ / "run/memories/a.safetensors", b = folder_ / "run/memories/b.safetensors";
  const auto written = fs::last_write_time(a);
  const std::string expected = read_file(b.string());
  fs::remove(b);  // as if the run had been killed before it
  const CompileRunResult rest = compile_contexts(settings, FolderUse::kResume);
  EXPECT_EQ(rest.compiled, 1);
  EXPECT_EQ(rest.kept, 1);
  EXPECT_EQ(fs::last_write_time(a), written);
  EXPECT_TRUE(at::equal(load_memory(b.string()).k_LGNE, [&] {
    write_file_atomic((folder_ / "b.safetensors").string(), expected);
    return load_memory((folder_ / "b.safetensors").string()).k_LGNE;
  }()));
  expect_error(ErrorKind::kBusy, "not empty", [&] { compile_contexts(settings, FolderUse::kNew); });
  // Another text or configuration is compiled anew.
  const RunConfig changed = config({"train.steps=1", "train.valid_every=1"}, "a.txt, b.txt");
  EXPECT_EQ(compile_contexts(changed, FolderUse::kResume).compiled, 2);
  EXPECT_EQ(lines_of("contexts.jsonl"), (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(lines_of("log.jsonl").size(), 2u * 3);  // of each a step and two checks
}

TEST_F(Compile, AResumedRunKeepsWhatIsFinished) {
  testing::write_text(folder_ / "b.txt", std::string("Tom knows this. ") + kText);
  const std::vector<std::string> keys = {"train.steps=1", "train.valid_every=1"};
  const auto resumed = [&](std::vector<std::string> more) {
    more.insert(more.end(), keys.begin(), keys.end());
    return compile_contexts(config(more, "a.txt, b.txt"), FolderUse::kResume);
  };
  compile_contexts(config(keys, "a.txt, b.txt"), FolderUse::kNew);
  const std::string lines = read_file((folder_ / "run/contexts.jsonl").string());
  // Keys that do not change a memory.
  EXPECT_EQ(resumed({"run.threads=1", "train.save_every=7", "eval.limit=3", "data.preview=2"}).kept, 2);
  EXPECT_EQ(read_file((folder_ / "run/contexts.jsonl").string()), lines);
  // A run that was killed between a memory and its line.
  testing::write_text(folder_ / "run/contexts.jsonl", lines.substr(0, lines.find('\n') + 9));
  EXPECT_EQ(resumed({}).kept, 2);
  EXPECT_EQ(read_file((folder_ / "run/contexts.jsonl").string()), lines);
  // A damaged memory is compiled again.
  const std::string a = (folder_ / "run/memories/a.safetensors").string(), bytes = read_file(a);
  testing::write_text(a, bytes.substr(0, bytes.size() / 2));
  const CompileRunResult repaired = resumed({});
  EXPECT_EQ(repaired.compiled, 1);
  EXPECT_EQ(repaired.kept, 1);
  EXPECT_GT(load_memory(a).rows(), 1);
  EXPECT_EQ(lines_of("contexts.jsonl"), (std::vector<std::string>{"b", "a"}));
}

}  // namespace
}  // namespace ctxc
