// The whole path as a user walks it, on a base so small that every step takes a second: train a base, export
// it, train a compressor on it, evaluate, report, export, compress, ask, inspect. And what the programs say
// when something is wrong.
#include <sys/wait.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include <fmt/format.h>

#include "core/file.h"
#include "core/json.h"
#include "testing.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

struct Result {
  int code;
  std::string out, err;
};

Result run(const std::string& folder, const std::string& program, const std::string& arguments) {
  const std::string out = folder + "/stdout", err = folder + "/stderr";
  const std::string command =
      fmt::format("cd {} && {} {} >{} 2>{}", folder, testing::program(program), arguments, out, err);
  const int status = std::system(command.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(out), read_file(err)};
}

constexpr const char* kData = R"(
  context_tokens: 64
  train: [{path: tiny-facts, format: synthetic, synthetic: {count: 40, seed: 1}}]
  eval: [{path: tiny-facts, format: synthetic, name: facts, synthetic: {count: 12, seed: 1, split: valid}}]
prompt: {cleanup: none, answer_prompt: "", answer_prefix: " "}
eval: {max_new_tokens: 3, bootstrap: 50}
)";

/// Made once for all tests: base/ (a run that trains its Llama), model/ (its export), run/ (ComprExIT on it),
/// run/eval.
class Programs : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    dir_ = new testing::TempDir;
    const std::string tokenizer = (testing::root() / "models/tiny-facts").string();
    std::ofstream(*dir_ / "base.yaml") << fmt::format(
        "run: {{dir: base, seed: 3}}\nbackbone: {{init: random, train: true, tokenizer: {}, shape: "
        "{{hidden_size: 32, "
        "intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1}}}}\n"
        "compressor: {{name: full}}\ntrain: {{steps: 6, batch: 4, lr: 1.0e-2}}\ndata:{}",
        tokenizer, kData);
    std::ofstream(*dir_ / "run.yaml") << fmt::format(
        "run: {{dir: run, seed: 3}}\nbackbone: {{path: model}}\ncompressor: {{name: comprexit, ratio: 4, "
        "window: 16, "
        "gate_width: 8, metric_width: 8}}\ntrain: {{steps: 4, batch: 4, lr: 1.0e-3}}\ndata:{}",
        kData);
    std::ofstream(*dir_ / "text.txt")
        << "Ada lives in Paris. Ada works as a baker. Bo lives in Rome. Bo works as a pilot.";
    std::ofstream(*dir_ / "questions.txt") << "One?\nTwo?\n";
    for (const auto& [program, arguments] : std::vector<std::pair<std::string, std::string>>{
             {"ctxc-train", "base.yaml"},
             {"ctxc-export", "--in base --to hf --dtype f32 --out model"},
             {"ctxc-train", "run.yaml"},
             {"ctxc-eval", "run.yaml --methods full,none,truncate_head,truncate_tail,checkpoint"},
             {"ctxc-run", "compress --checkpoint run --text text.txt --out memory.safetensors --json"}}) {
      const Result result = run(folder(), program, arguments);
      ASSERT_EQ(result.code, 0) << program << " " << arguments << "\n" << result.err;
      outputs_[program] = result.out;
    }
  }
  static void TearDownTestSuite() {
    delete dir_;
    dir_ = nullptr;
  }
  void SetUp() override {
    if (!fs::exists(*dir_ / "memory.safetensors")) GTEST_SKIP() << "the path broke in SetUpTestSuite";
  }
  static std::string folder() { return dir_->str(); }
  static Result call(const std::string& program, const std::string& arguments) {
    return run(folder(), program, arguments);
  }
  static Json json_of(const std::string& program, const std::string& arguments) {
    const Result result = call(program, arguments);
    EXPECT_EQ(result.code, 0) << program << " " << arguments << "\n" << result.err;
    return parse_json(result.code == 0 ? result.out : "{}", program + " " + arguments);
  }
  static void expect_failure(const std::string& program, const std::string& arguments, int code,
                             const std::string& part) {
    const Result result = call(program, arguments);
    EXPECT_EQ(result.code, code) << program << " " << arguments << "\n" << result.err;
    EXPECT_EQ(result.err.rfind("error: ", 0), 0u) << result.err;
    EXPECT_NE(result.err.find(part), std::string::npos) << result.err << "\npart: " << part;
  }

  static testing::TempDir* dir_;
  static std::map<std::string, std::string> outputs_;
};
testing::TempDir* Programs::dir_ = nullptr;
std::map<std::string, std::string> Programs::outputs_;

TEST_F(Programs, EvaluationWritesTheNamedFiles) {
  const Json results = read_json_file(folder() + "/run/eval/results.json");
  EXPECT_TRUE(results.at("complete").get<bool>());
  ASSERT_EQ(results.at("entries").size(), 5u);
  double vectors[5];
  for (size_t i = 0; i < 5; ++i) vectors[i] = results.at("entries")[i].at("vectors_read").get<double>();
  EXPECT_GT(vectors[0], vectors[4]);
  EXPECT_EQ(vectors[1], 0);
  EXPECT_EQ(vectors[2], vectors[4]);  // truncation keeps as many tokens as the checkpoint has slots
  EXPECT_EQ(vectors[3], vectors[4]);
  const Json predictions = read_json_file(folder() + "/run/eval/predictions/facts.json");
  EXPECT_EQ(static_cast<int64_t>(predictions.size()), results.at("entries")[4].at("n").get<int64_t>());
  for (const char* file :
       {"results.md", "records/facts.jsonl", "predictions/full/facts.json", "records/none/facts.jsonl"})
    EXPECT_TRUE(fs::exists(folder() + "/run/eval/" + file)) << file;
}

TEST_F(Programs, EvaluationTakesFinishedSetsUp) {
  const Result again = call("ctxc-eval", "--checkpoint run --methods full,checkpoint --json");
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_NE(again.err.find("full on facts: done before"), std::string::npos) << again.err;
  EXPECT_NE(again.err.find("checkpoint on facts: done before"), std::string::npos) << again.err;
  const Json limited =
      json_of("ctxc-eval", "--checkpoint run --methods checkpoint --limit 5 --json --out few");
  EXPECT_EQ(limited.at("entries")[0].at("n"), 5);
}

TEST_F(Programs, EvaluationMeasuresLikelihoodAlone) {
  const std::string alone =
      "--checkpoint run --methods full,checkpoint eval.answers=false --json --out alone ";
  expect_failure("ctxc-eval", alone, 2, "nothing would be measured");
  EXPECT_FALSE(fs::exists(folder() + "/alone"));
  const Json results = json_of("ctxc-eval", alone + "eval.nll=true eval.hidden_cache=hidden");
  for (const Json& entry : results.at("entries")) {
    EXPECT_TRUE(entry.contains("nll"));
    EXPECT_FALSE(entry.contains("f1") || entry.contains("predictions"));
  }
  EXPECT_TRUE(fs::exists(folder() + "/hidden"));
}

TEST_F(Programs, EvaluationReadsPlainText) {
  const std::string sets =
      " data.context_tokens=8 data.generation_tokens=4 data.root=. 'data.eval=[{path: text.txt}]' ";
  const Json results =
      json_of("ctxc-eval", "--checkpoint run --methods full,checkpoint --json --out plain" + sets);
  ASSERT_EQ(results.at("entries").size(), 2u);
  for (const Json& entry : results.at("entries")) {
    EXPECT_EQ(entry.at("set"), "text");
    EXPECT_NEAR(entry.at("perplexity").get<double>(), std::exp(entry.at("nll").at("value").get<double>()),
                1e-9);
    EXPECT_FALSE(entry.contains("f1"));
  }
  EXPECT_TRUE(fs::exists(folder() + "/plain/records/text.jsonl"));
  const std::string bad = "--checkpoint run --out bad" + sets;
  expect_failure("ctxc-eval", bad + "--methods bm25", 2, "text: plain text has no question, which bm25");
  expect_failure("ctxc-eval", bad + "--methods full prompt.shots=2", 2, "text: plain text has no question");
  EXPECT_FALSE(fs::exists(folder() + "/bad"));
}

TEST_F(Programs, EvaluationSaysWhatIsWrong) {
  expect_failure("ctxc-eval", "", 2, "give a configuration or --checkpoint");
  expect_failure("ctxc-eval", "--checkpoint nowhere", 3, "nowhere");
  expect_failure("ctxc-eval", "--checkpoint run --methods ful", 2, "unknown evaluation method");
  expect_failure("ctxc-eval", "--checkpoint run --benchmarks sqad", 2, "unknown benchmark");
  expect_failure("ctxc-eval", "--checkpoint run eval.limt=3", 2, "limt");
  expect_failure("ctxc-eval", "--checkpoint run --limit -1", 2, "limit");
}

TEST_F(Programs, ReportIsOneFile) {
  const Result report = call("ctxc-eval", "report run base --out page/report.html");
  ASSERT_EQ(report.code, 0) << report.err;
  EXPECT_NE(report.out.find("truncate_tail"), std::string::npos);
  const std::string html = read_file(folder() + "/page/report.html");
  EXPECT_NE(html.find("<svg"), std::string::npos);
  EXPECT_EQ(html.find("http-equiv"), std::string::npos);
  EXPECT_EQ(html.find("src="), std::string::npos);
}

TEST_F(Programs, AskAnswersFromTheMemory) {
  const Json answer = json_of(
      "ctxc-run", "ask --memory memory.safetensors --json --logits l.safetensors 'Where does Ada live?'");
  const Json compressed = parse_json(outputs_["ctxc-run"], "compress");
  EXPECT_EQ(answer.at("slots"), compressed.at("slots"));
  EXPECT_GT(compressed.at("ratio").get<double>(), 3);
  EXPECT_TRUE(fs::exists(folder() + "/l.safetensors"));
  const Result chat =
      call("ctxc-run", "ask --memory memory.safetensors --model model --chat --json < questions.txt");
  EXPECT_EQ(chat.code, 0) << chat.err;
  EXPECT_EQ(std::count(chat.out.begin(), chat.out.end(), '\n'), 2) << chat.out;
}

TEST_F(Programs, AskRefusesAnotherBase) {
  ASSERT_EQ(call("ctxc-export", "--in model --to hf --dtype bf16 --out rounded").code, 0);
  expect_failure("ctxc-run", "ask --memory memory.safetensors --model rounded Q", 3, "weights_fingerprint");
  EXPECT_EQ(call("ctxc-run", "ask --memory memory.safetensors --model rounded --force Q").code, 0);
  expect_failure("ctxc-run", "ask --memory memory.safetensors", 2, "give one question, or --chat");
  expect_failure("ctxc-run", "ask --memory text.txt Q", 3, "text.txt");
  expect_failure("ctxc-run", "compress --checkpoint run --text text.txt --out memory.safetensors", 6,
                 "is there already");
  expect_failure("ctxc-run", "compress --checkpoint run --text /dev/null --out m2", 3, "the text is empty");
}

TEST_F(Programs, ExportsAreReadAgain) {
  ASSERT_EQ(call("ctxc-export", "--in run --to peer --out peer").code, 0) << read_file(folder() + "/stderr");
  EXPECT_EQ(json_of("ctxc-inspect", "peer --json").at("kind"), "ComprExIT checkpoint");
  ASSERT_EQ(call("ctxc-export", "--in run --to safetensors --out trained.safetensors").code, 0);
  EXPECT_EQ(json_of("ctxc-inspect", "trained.safetensors --json").at("kind"), "trained tensors");
  ASSERT_EQ(call("ctxc-export", "--in memory.safetensors --to peft-prompt --out adapter").code, 0);
  EXPECT_TRUE(fs::exists(folder() + "/adapter/adapter_model.safetensors"));
  expect_failure("ctxc-export", "--in run --to safetensors --out trained.safetensors", 6, "is there already");
  expect_failure("ctxc-export", "--in run --to sefetensors --out x", 2, "export target");
  expect_failure("ctxc-export", "--in run --to hf --dtype int3 --out x", 2, "--dtype");
  EXPECT_NE(call("ctxc-export", "--list exporters").out.find("peft-prompt"), std::string::npos);
}

TEST_F(Programs, ShardsHoldTheSameWeights) {
  ASSERT_EQ(call("ctxc-export", "--in model --to hf --dtype f32 --shard-bytes 60000 --out shards").code, 0);
  EXPECT_TRUE(fs::exists(folder() + "/shards/model.safetensors.index.json"));
  const Json whole = json_of("ctxc-inspect", "model --json"),
             shards = json_of("ctxc-inspect", "shards --json");
  EXPECT_EQ(whole.at("parameters"), shards.at("parameters"));
  EXPECT_EQ(whole.at("weights_fingerprint"), shards.at("weights_fingerprint"));
  EXPECT_EQ(whole.at("tokenizer"), shards.at("tokenizer"));
}

TEST_F(Programs, InspectKnowsEveryKind) {
  EXPECT_EQ(json_of("ctxc-inspect", "model --json").at("kind"), "Hugging Face model");
  EXPECT_EQ(json_of("ctxc-inspect", "memory.safetensors --json").at("kind"), "memory artifact");
  const Json run = json_of("ctxc-inspect", "run --json");
  EXPECT_EQ(run.at("kind"), "run folder");
  EXPECT_EQ(run.at("newest").at("files").at("trainable.safetensors"), "intact");
  EXPECT_EQ(json_of("ctxc-inspect", "run/eval --json").at("kind"), "evaluation");
  EXPECT_NE(call("ctxc-inspect", "model").out.find("model.layers.*.mlp"), std::string::npos);
  expect_failure("ctxc-inspect", "text.txt", 3, "nothing that ctxc knows");
  expect_failure("ctxc-inspect", "absent", 3, "no such file");
}

}  // namespace
}  // namespace ctxc
