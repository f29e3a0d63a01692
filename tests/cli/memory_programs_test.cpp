// Memories as a user makes and uses them: compile, inspect, ask, compose, export; and every bad input with
// its exit code.
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "core/file.h"
#include "core/json.h"
#include "core/safetensors.h"
#include "core/text.h"
#include "testing.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

constexpr const char* kText =
    "Ada was born in Paris in the year 1912 and works as a baker. Her brother Tom lives in Rome and plays "
    "the violin. "
    "They meet every summer in a small house by the sea, where their friend Eva writes letters.";

struct Result {
  int code;
  std::string out, err;
};

class MemoryPrograms : public ::testing::Test {
 protected:
  void SetUp() override {
    std::ofstream(dir_ / "text.txt") << kText;
    base_ = (testing::root() / "models/tiny-facts").string();
  }
  std::string at(const std::string& name) const { return (dir_ / name).string(); }
  Result run(const std::string& program, const std::string& arguments) const {
    const std::string command = testing::program(program) + " " + arguments;
    const int status = std::system(("(" + command + ") >" + at("stdout") + " 2>" + at("stderr")).c_str());
    return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(at("stdout")), read_file(at("stderr"))};
  }
  /// A compile of a second or two.
  Result compile(const std::string& text, const std::string& out, const std::string& more = "") const {
    return run("ctxc-run",
               "compile --model " + base_ + " --text " + at(text) + " --out " + at(out) +
                   " --preset small --json compressor.ratio=8 compressor.lora.rank=2 queries.count=4 "
                   "queries.held_out=2 queries.max_new=4 train.steps=4 train.valid_every=2 " +
                   more);
  }
  Json json_of(const Result& result) const {
    EXPECT_EQ(result.code, 0) << result.err;
    return parse_json(result.out, "stdout");
  }
  /// Fails with this code, an error that holds `part`, and a hint.
  void expect_failure(const Result& result, int code, const std::string& part) const {
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err;
    EXPECT_EQ(result.out, "");
  }
  testing::TempDir dir_;
  std::string base_;
};

TEST_F(MemoryPrograms, CompiledAskedComposedExported) {
  const Json made = json_of(compile("text.txt", "a.safetensors"));
  EXPECT_EQ(made.at("header"), 1);
  EXPECT_EQ(made.at("metrics").at("steps"), 4);
  expect_failure(compile("text.txt", "a.safetensors"), 6, "is there already");
  ASSERT_EQ(compile("text.txt", "b.safetensors", "run.seed=1 --keep-lora " + at("lora.safetensors")).code, 0);
  const Json adapters = json_of(run("ctxc-inspect", at("lora.safetensors") + " --json")).at("adapters");
  EXPECT_EQ(adapters.at("base"), base_);
  EXPECT_EQ(adapters.at("rank"), 2);
  EXPECT_GT(adapters.at("parameters").get<int64_t>(), 0);

  const Json seen = json_of(run("ctxc-inspect", at("a.safetensors") + " --json"));
  EXPECT_EQ(seen.at("kind"), "memory artifact");
  EXPECT_EQ(seen.at("record").at("kind"), "kv");
  EXPECT_TRUE(seen.at("record").at("metrics").contains("probe_nll"));
  EXPECT_EQ(seen.at("record").at("positions").at("count"), made.at("slots").get<int64_t>() + 1);

  const Json answer = json_of(run("ctxc-run", "ask --json --max-new-tokens 5 --memory " +
                                                  at("a.safetensors") + " 'Where does Tom live?'"));
  EXPECT_EQ(answer.at("slots"), made.at("slots"));
  EXPECT_LE(answer.at("new_tokens"), 5);
  std::ofstream(dir_ / "questions") << "Who?\nWhere?\n";
  const Result chat =
      run("ctxc-run", "ask --json --chat --memory " + at("a.safetensors") + " < " + at("questions"));
  EXPECT_EQ(std::count(chat.out.begin(), chat.out.end(), '\n'), 2) << chat.err;

  const Json joined = json_of(run("ctxc-run", "compose --json " + at("a.safetensors") + " " +
                                                  at("b.safetensors") + " --out " + at("c.safetensors")));
  EXPECT_EQ(joined.at("slots"), 2 * made.at("slots").get<int64_t>());
  EXPECT_EQ(run("ctxc-run", "ask --json --memory " + at("c.safetensors") + " Who").code, 0);
  for (const char* target : {"hf-cache", "peft-prefix", "peft-cartridge", "llamacpp-state", "raw", "kv"})
    EXPECT_EQ(
        run("ctxc-export", "--in " + at("c.safetensors") + " --to " + target + " --out " + at(target)).code,
        0)
        << target;
  EXPECT_EQ(run("ctxc-export",
                "--in " + at("a.safetensors") + " --to kv --dtype int8 --out " + at("small.safetensors"))
                .code,
            0);
  EXPECT_LT(fs::file_size(at("small.safetensors")), fs::file_size(at("a.safetensors")));
  EXPECT_EQ(run("ctxc-run", "ask --memory " + at("small.safetensors") + " Who").code, 0);
  // int8 stays int8: more than the parts together would be float32.
  ASSERT_EQ(run("ctxc-run", "compose " + at("small.safetensors") + " " + at("small.safetensors") + " --out " +
                                at("smalls.safetensors"))
                .code,
            0);
  EXPECT_LT(fs::file_size(at("smalls.safetensors")), 2 * fs::file_size(at("small.safetensors")));
  EXPECT_EQ(run("ctxc-run", "ask --memory " + at("smalls.safetensors") + " Who").code, 0);
}

TEST_F(MemoryPrograms, BadInputsNameWhatToDo) {
  std::ofstream(dir_ / "empty.txt") << "\n";
  expect_failure(compile("empty.txt", "x"), 3, "the context is empty");
  std::ofstream(dir_ / "special.txt") << kText << "<|endoftext|>" << kText;
  expect_failure(compile("special.txt", "x"), 3, "special token <|endoftext|>");
  {
    std::ofstream large(dir_ / "large.txt");
    for (int i = 0; i < 40; ++i) large << kText;
  }
  const Result large = compile("large.txt", "x");
  expect_failure(large, 3, "does not fit the window");
  EXPECT_NE(large.err.find("hint: lower compressor.segment_tokens"), std::string::npos) << large.err;
  expect_failure(compile("text.txt", "x", "queries.count=5000"), 2, "bank of random queries is too small");
  expect_failure(compile("text.txt", "x", "compressor.lora.rnak=3"), 2, "rnak");
  expect_failure(compile("absent.txt", "x"), 3, "no such file");
  EXPECT_FALSE(fs::exists(at("x")));
  // What could not be kept or written after the compile is refused before it.
  const std::string lora = "--keep-lora " + at("kept") + " ";
  expect_failure(compile("text.txt", "x", lora + "compressor.optimise=buffers"), 2, "no adapters to keep");
  expect_failure(compile("text.txt", "x", lora + "compressor.segment_tokens=40"), 2, "adapters of its own");
  expect_failure(compile("text.txt", "x", "--keep-lora " + at("x")), 2, "are the same file");
  expect_failure(compile("text.txt", "x", "--keep-lora " + at("text.txt")), 6, "text.txt: is there already");
  expect_failure(compile("text.txt", "x", "--keep-lora " + at("text.txt/kept")), 7, "text.txt");
  expect_failure(compile("text.txt", "x", "compressor.artifact=embeds compressor.storage=int8"), 2,
                 "int8 is for keys and values");
  expect_failure(compile("text.txt", "x", "train.batch=1"), 2, "train.batch: a step needs");
  EXPECT_FALSE(fs::exists(at("x")));
  EXPECT_FALSE(fs::exists(at("kept")));
  EXPECT_EQ(read_file(at("text.txt")), kText);
  EXPECT_EQ(compile("text.txt", "deep/x", "--keep-lora " + at("deeper/kept")).code, 0);
  EXPECT_TRUE(fs::exists(at("deeper/kept")));

  // A truncated artifact, one of another base, and one whose positions do not fit.
  ASSERT_EQ(compile("text.txt", "good").code, 0);
  const std::string bytes = read_file(at("good"));
  write_file_atomic(at("cut"), std::string_view(bytes).substr(0, bytes.size() / 2));
  expect_failure(run("ctxc-run", "ask --memory " + at("cut") + " --model " + base_ + " Who"), 3, at("cut"));
  const auto damaged = [&](const std::string& from, const std::string& to) {
    std::string other = bytes;
    const size_t place = other.find(from);
    EXPECT_NE(place, std::string::npos) << from;
    other.replace(place, from.size(), to);
    write_file_atomic(at("other"), other);
    return run("ctxc-run", "ask --memory " + at("other") + " --model " + base_ + " Who");
  };
  expect_failure(damaged("\\\"rope_theta\\\":10000.0", "\\\"rope_theta\\\":20000.0"), 3,
                 "rope_theta (found 20000.0");
  expect_failure(damaged("\\\"first\\\":0", "\\\"first\\\":4"), 3, "positions do not fit");
  // The base has 1,024 positions.
  std::string question;
  for (int i = 0; i < 600; ++i) question += " who is";
  const std::string ask = "ask --json --memory " + at("good") + " ";
  expect_failure(run("ctxc-run", ask + "'" + question + "'"), 3, "do not fit the base's window");
  const Result last = run("ctxc-run", ask + "--raw --max-new-tokens 2000 Who");
  EXPECT_EQ(last.code, 0) << last.err;
  EXPECT_NE(last.err.find("ends with the base's window"), std::string::npos) << last.err;
  expect_failure(run("ctxc-export",
                     "--in " + at("good") + " --to llamacpp-state --llama-state-version 9 --out " + at("y")),
                 2, "unknown version (found 9");
  for (const char* option : {"--offset 3", "--llama-placeholder 0", "--llama-state-version 4"})
    expect_failure(
        run("ctxc-export", "--in " + at("good") + " --to peft-prompt --out " + at("y") + " " + option), 2,
        "does not read it");
  expect_failure(run("ctxc-export",
                     "--in " + at("good") + " --to llamacpp-state --llama-placeholder -1 --out " + at("y")),
                 2, "--llama-placeholder: is no token (found -1");
  EXPECT_FALSE(fs::exists(at("y")));
}

TEST_F(MemoryPrograms, SegmentsAreReportedAsOneMemory) {
  const std::string keys =
      " compressor.ratio=8 compressor.lora.rank=2 queries.count=4 queries.held_out=2 "
      "queries.max_new=4 train.steps=2 compressor.segment_tokens=40";
  const Result made = run("ctxc-run", "compile --model " + base_ + " --preset small --text " +
                                          at("text.txt") + " --out " + at("s.safetensors") + keys);
  ASSERT_EQ(made.code, 0) << made.err;
  for (const char* part : {"| compiled", "| full context", "segments joined"})
    EXPECT_NE(made.err.find(part), std::string::npos) << made.err;
  ASSERT_EQ(run("ctxc-export", "--in " + at("s.safetensors") + " --to hf-cache --out " + at("cache")).code,
            0);
  const std::string card = read_file(at("cache/README.md"));
  for (const char* part : {"NLL of a token", "compiled in segments"})
    EXPECT_NE(card.find(part), std::string::npos) << card;
}

TEST_F(MemoryPrograms, MeasuredOnQuestionsWithAnswers) {
  const auto row = [](const char* id, const std::string& text, const char* question, const char* answer) {
    return Json{{"id", id},
                {"context", text},
                {"qas", {{{"qid", "1"}, {"question", question}, {"answers", {answer, "x"}}}}}}
               .dump() +
           "\n";
  };
  const std::string boris =
      "Notes: Boris lives in Oslo. The market sells soup. Boris works as a pilot. Boris likes honey.";
  std::ofstream(dir_ / "qa.jsonl") << R"({"header": {"dataset": "test"}})"
                                   << "\n"
                                   << row("a", boris, "What does Boris like?", "honey")
                                   << row("b", kText, "Where does Tom live?", "Rome");
  const auto train = [&](const std::string& name, const std::string& keys) {
    std::ofstream(dir_ / "lcc.yaml") << "compressor: {name: lcc, preset: small, ratio: 8}\n"
                                        "prompt: {question_prefix: \"Question: \", answer_prefix: \" \"}\n";
    const Result result =
        run("ctxc-train", at("lcc.yaml") + " --quiet backbone.path=" + base_ + " data.contexts=[" +
                              at("qa.jsonl") + "] run.dir=" + at(name) +
                              " compressor.storage=float32 queries.count=4 queries.held_out=2 "
                              "queries.max_new=4 train.steps=4 train.valid_every=2 " +
                              keys);
    ASSERT_EQ(result.code, 0) << result.err;
  };
  train("exact", "compressor.optimise=truncate compressor.ratio=1");
  train("lcc", "compressor.lora.rank=2");
  const std::string arguments = "measure --quiet --general 3 --contexts " + at("qa.jsonl") + " ";
  const Result measured =
      run("ctxc-run", arguments + at("exact") + " " + at("lcc") + " --out " + at("m.jsonl"));
  ASSERT_EQ(measured.code, 0) << measured.err;
  for (const char* row : {"| full", "| none", "| exact ", "| lcc of another context", "EM", "agreement"})
    EXPECT_NE(measured.out.find(row), std::string::npos) << measured.out;
  std::vector<Json> lines;
  for_each_line(at("m.jsonl"),
                [&](std::string_view line, int64_t) { lines.push_back(parse_json(line, "m")); });
  ASSERT_EQ(lines.size(), 2u);
  for (const Json& line : lines) {
    const Json& exact = line.at("methods").at("exact");
    // Gate: the exact keys and values of the context, through the file, read like the context.
    EXPECT_LT(exact.at("kl").get<double>(), 1e-5);
    EXPECT_NEAR(exact.at("nll").get<double>(), line.at("full").at("nll").get<double>(), 1e-4);
    EXPECT_EQ(exact.at("slots"), line.at("tokens"));
    EXPECT_EQ(line.at("full").at("kl").get<double>() < 1e-6, true);
    EXPECT_GT(line.at("none").at("kl").get<double>(), 1e-3);
    EXPECT_GT(line.at("methods").at("lcc").at("kl").get<double>(), 1e-4);
    EXPECT_NE(line.at("foreign").at("exact"), exact);
    // What the base says to anything else is the same behind the exact memory, and another thing behind none.
    EXPECT_LT(line.at("full").at("general_kl").get<double>(), 1e-6);
    EXPECT_LT(line.at("none").at("general_kl_none").get<double>(), 1e-6);
    EXPECT_LT(exact.at("general_kl").get<double>(), 1e-5);
    EXPECT_EQ(exact.at("general_agreement"), 1);
    EXPECT_NEAR(exact.at("general_kl_none").get<double>(),
                line.at("full").at("general_kl_none").get<double>(), 1e-5);
    EXPECT_GT(line.at("none").at("general_kl").get<double>(), 1e-3);
    EXPECT_GT(line.at("methods").at("lcc").at("general_kl").get<double>(), 1e-4);
    EXPECT_FALSE(line.at("foreign").at("exact").contains("general_kl"));
    for (const char* score : {"em", "f1"}) {
      EXPECT_EQ(exact.at(score), line.at("full").at(score));
      EXPECT_GE(line.at("methods").at("lcc").at(score).get<double>(), 0);
      EXPECT_LE(line.at("none").at(score).get<double>(), 1);
      EXPECT_FALSE(line.at("foreign").at("exact").contains(score));
    }
  }
  // A memory that the base can use: the full context answers what nothing does not.
  EXPECT_LT(lines[0].at("full").at("nll").get<double>(), lines[0].at("none").at("nll").get<double>());
  // Without answers, as lines on standard output.
  const Json bare = parse_json(
      split(run("ctxc-run", arguments + at("exact") + " --json --max-new-tokens 0").out, '\n').at(0), "m");
  EXPECT_FALSE(bare.at("full").contains("em"));
  EXPECT_EQ(bare.at("full").at("nll"), lines[0].at("full").at("nll"));
  expect_failure(run("ctxc-run", arguments + at("exact") + " --max-new-tokens -1"), 2, "--max-new-tokens");
  // No questions: the text that follows.
  const auto follow = [&](const std::string& text) {
    std::ofstream(dir_ / "books.jsonl")
        << Json{{"id", "a"}, {"context", boris}, {"continuation", text}}.dump() << "\n";
    return run("ctxc-run", "measure --quiet --json --contexts " + at("books.jsonl") + " " + at("exact"));
  };
  std::string next;
  for (int i = 0; i < 12; ++i) next += " Boris lives in Oslo and he works as a pilot.";
  const Json book = parse_json(follow(next).out, "m");
  EXPECT_EQ(book.at("continuation"), 64);
  EXPECT_EQ(book.at("questions"), 0);
  EXPECT_LT(book.at("methods").at("exact").at("kl").get<double>(), 1e-5);
  EXPECT_GT(book.at("none").at("kl").get<double>(), 1e-3);
  EXPECT_FALSE(book.at("full").contains("em"));
  expect_failure(follow(" Too short."), 3, "continuation is too short");
  expect_failure(run("ctxc-run", arguments + at("absent")), 3, "has a memory in every run");
  expect_failure(run("ctxc-run", arguments + at("lcc") + " " + at("exact/../lcc")), 2,
                 "two runs are called lcc");
  std::ofstream(dir_ / "edited.jsonl") << row("a", boris + " He rests.", "What does Boris like?", "honey");
  expect_failure(run("ctxc-run", "measure --quiet --contexts " + at("edited.jsonl") + " " + at("exact")), 3,
                 "is the memory of another text than context a");
}

TEST_F(MemoryPrograms, TrainCompilesAListAndGoesOn) {
  std::ofstream(dir_ / "more.txt") << "Tom told her. " << kText;
  const std::string arguments =
      (testing::root() / "configs/lcc_tiny.yaml").string() + " backbone.path=" + base_ +
      " run.dir=" + at("run") + " 'data.contexts=[" + at("text.txt") + ", " + at("more.txt") +
      "]' queries.count=4 queries.held_out=2 queries.max_new=4 train.steps=2 --json";
  EXPECT_EQ(json_of(run("ctxc-train", arguments)).at("compiled"), 2);
  EXPECT_TRUE(fs::exists(at("run/memories/text.safetensors")));
  expect_failure(run("ctxc-train", arguments), 6, "not empty");
  fs::remove(at("run/memories/more.safetensors"));
  const Json again = json_of(run("ctxc-train", arguments + " --resume"));
  EXPECT_EQ(again.at("compiled"), 1);
  EXPECT_EQ(again.at("kept"), 1);
  const Result plan = run("ctxc-train", arguments + " --dry-run");
  EXPECT_EQ(plan.code, 0) << plan.err;
  const Json planned = parse_json(plan.out, "stdout").at("contexts");
  ASSERT_EQ(planned.size(), 2u);
  EXPECT_EQ(planned[0].at("context"), "text");
  EXPECT_EQ(planned[0].at("segments"), 1);
}

TEST_F(MemoryPrograms, AStreamOfAnyLengthIsTheWholeText) {
  const std::string config = (testing::root() / "configs/progressive_tiny.yaml").string();
  ASSERT_EQ(run("ctxc-train", config + " run.dir=" + at("run") + " backbone.path=" + base_ +
                                  " train.steps=1 train.batch=2 train.samples=0 data.valid=[]")
                .code,
            0);
  std::ofstream text(dir_ / "long.txt");
  for (int i = 0; i < 40; ++i) text << kText << (i % 3 == 0 ? "\n" : " ");
  text.close();
  const std::string compress = "compress --json --checkpoint " + at("run");
  const Json whole = json_of(run("ctxc-run", compress + " --max-tokens 0 --text " + at("long.txt") +
                                                 " --out " + at("whole.safetensors")));
  const Json streamed = json_of(run(
      "ctxc-run", compress + " --stream --text - --out " + at("stream.safetensors") + " <" + at("long.txt")));
  EXPECT_GT(whole.at("tokens").get<int>(), 1000);
  for (const char* key : {"tokens", "source_tokens", "slots"})
    EXPECT_EQ(streamed.at(key), whole.at(key)) << key;
  // The slots to the bit; the records differ in when and in how many seconds they were made.
  const SafetensorsFile a(at("whole.safetensors")), b(at("stream.safetensors"));
  const TensorView &read_whole = a.tensors().at("embeds"), &read_streamed = b.tensors().at("embeds");
  EXPECT_EQ(read_streamed.shape, read_whole.shape);
  EXPECT_TRUE(std::ranges::equal(read_streamed.bytes, read_whole.bytes));
  const Json cut = json_of(run("ctxc-run", compress + " --stream --max-tokens 100 --text " + at("long.txt") +
                                               " --out " + at("cut.safetensors")));
  EXPECT_EQ(cut.at("tokens"), 100);
  EXPECT_FALSE(cut.contains("source_tokens"));
  // A pipe, whose size nobody knows.
  ASSERT_EQ(mkfifo(at("pipe").c_str(), 0600), 0);
  ASSERT_EQ(std::system(("cat " + at("long.txt") + " >" + at("pipe") + " &").c_str()), 0);
  const Json piped = json_of(
      run("ctxc-run", compress + " --stream --text " + at("pipe") + " --out " + at("pipe.safetensors")));
  EXPECT_EQ(piped.at("tokens"), whole.at("tokens"));
  for (const char* stream : {"", " --stream"})
    expect_failure(
        run("ctxc-run", compress + stream + " --text " + at(".") + " --out " + at("e.safetensors")), 3,
        "found a folder");

  std::ofstream(dir_ / "empty.txt") << "";
  expect_failure(
      run("ctxc-run", compress + " --stream --text " + at("empty.txt") + " --out " + at("e.safetensors")), 3,
      "the text is empty");
  expect_failure(
      run("ctxc-run", compress + " --stream --text " + at("none.txt") + " --out " + at("e.safetensors")), 3,
      "no such file");
  ASSERT_EQ(
      run("ctxc-train", config + " run.dir=" + at("passes") + " backbone.path=" + base_ +
                            " compressor.passes=2 train.steps=1 train.batch=2 train.samples=0 data.valid=[]")
          .code,
      0);
  expect_failure(run("ctxc-run", "compress --json --checkpoint " + at("passes") + " --stream --text " +
                                     at("long.txt") + " --out " + at("e.safetensors")),
                 2, "reads a text at once");
}

/// Slots of the methods with learnt latents, from a checkpoint to the adapter that PEFT reads: the numbers
/// that compress wrote, header first.
TEST_F(MemoryPrograms, SlotsOfDiffusionAndProgressiveAsAPromptOfPeft) {
  for (const std::string method : {"diffusion", "progressive"}) {
    const std::string config = (testing::root() / ("configs/" + method + "_tiny.yaml")).string();
    const Result trained =
        run("ctxc-train", config + " --quiet run.dir=" + at(method) + " backbone.path=" + base_ +
                              " train.steps=1 train.batch=2 train.samples=0 data.valid=[]");
    ASSERT_EQ(trained.code, 0) << trained.err;
    const std::string memory = at(method + ".safetensors"), prompt = at(method + "-prompt");
    const Json made = json_of(run("ctxc-run", "compress --json --checkpoint " + at(method) + " --text " +
                                                  at("text.txt") + " --out " + memory));
    const int64_t tokens = made.at("tokens"), slots = made.at("slots");
    EXPECT_EQ(slots, (tokens + 3) / 4) << method;
    const Result exported = run("ctxc-export", "--in " + memory + " --to peft-prompt --out " + prompt);
    ASSERT_EQ(exported.code, 0) << exported.err;

    const SafetensorsFile artifact(memory), adapter(prompt + "/adapter_model.safetensors");
    const Json record = parse_json(artifact.metadata().at("ctxc"), "ctxc");
    EXPECT_EQ(record.at("kind"), "embeds");
    EXPECT_EQ(record.at("method"), method);
    EXPECT_EQ(record.at("n_slots"), slots);
    const int64_t header = record.at("n_header"), width = record.at("model").at("hidden_size");
    EXPECT_EQ(header, 1);
    const TensorView &written = artifact.tensors().at("embeds"),
                     &read = adapter.tensors().at("prompt_embeddings");
    EXPECT_EQ(read.shape, (std::vector<int64_t>{header + slots, width}));
    EXPECT_EQ(read.shape, written.shape);
    EXPECT_EQ(read.dtype, written.dtype);
    EXPECT_TRUE(std::ranges::equal(read.bytes, written.bytes)) << method;
    EXPECT_EQ(adapter.tensors().size(), 1u);
    const Json prompted = parse_json(read_file(prompt + "/adapter_config.json"), "adapter_config.json");
    EXPECT_EQ(prompted.at("peft_type"), "PROMPT_TUNING");
    EXPECT_EQ(prompted.at("num_virtual_tokens"), header + slots);
    EXPECT_EQ(prompted.at("token_dim"), width);
  }
}

/// The tail that is kept is the last lines alone; BOS, where the context has one, stays in front of it.
TEST_F(MemoryPrograms, TheTailIsCutAsTrainingCut) {
  const std::string config = (testing::root() / "configs/progressive_tiny.yaml").string();
  std::ofstream text(dir_ / "long.txt");
  for (int i = 0; i < 20; ++i) text << kText << " " << i << "\n";
  text.close();
  std::ofstream(dir_ / "end.txt") << kText << " 18\n" << kText << " 19\n";
  std::vector<int> lengths;
  for (const std::string bos : {"false", "true"}) {
    const std::string name = "run-" + bos;
    ASSERT_EQ(run("ctxc-train", config + " run.dir=" + at(name) + " backbone.path=" + base_ +
                                    " data.truncate=tail prompt.context_bos=" + bos +
                                    " train.steps=1 train.batch=2 train.samples=0 data.valid=[]")
                  .code,
              0);
    const auto compressed = [&](const std::string& file, const std::string& out, const std::string& more) {
      return json_of(run("ctxc-run", "compress --json --checkpoint " + at(name) + " --text " + at(file) +
                                         " --overwrite --out " + at(out) + more));
    };
    const Json end = compressed("end.txt", "end.safetensors", " --max-tokens 0");
    const std::string limit = " --max-tokens " + std::to_string(end.at("tokens").get<int>());
    lengths.push_back(end.at("tokens"));
    for (const std::string stream : {"", " --stream"}) {
      const Json cut = compressed("long.txt", "cut.safetensors", limit + stream);
      EXPECT_EQ(cut.at("tokens"), end.at("tokens"));
      EXPECT_GT(cut.at("source_tokens").get<int>(), 5 * end.at("tokens").get<int>());
      const SafetensorsFile a(at("end.safetensors")), b(at("cut.safetensors"));
      const TensorView &alone = a.tensors().at("embeds"), &kept = b.tensors().at("embeds");
      EXPECT_EQ(alone.shape, kept.shape);
      EXPECT_TRUE(std::ranges::equal(alone.bytes, kept.bytes)) << "context_bos=" << bos << stream;
    }
  }
  EXPECT_EQ(lengths[1], lengths[0] + 1);
}

}  // namespace
}  // namespace ctxc
