// Around an evaluation: which sets, which methods, what is written and taken up again, reports of it.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/file.h"
#include "eval/benchmark.h"
#include "eval/readers.h"
#include "eval/report.h"
#include "eval/results.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

void touch(const fs::path& path, const std::string& text = "x") {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

TEST(Benchmark, FindsOurLayoutTheReleaseAndThePeers) {
  const testing::TempDir dir;
  touch(dir / "mrqa/SQuAD.dev.jsonl.gz");
  touch(dir / "dev/TriviaQA-web.jsonl.gz");
  touch(dir / "mrqa/hotpot_qa/validation_hotpot.jsonl.gz");
  const auto found = resolve_benchmarks({"squad", "triviaqa", "hotpotqa"}, dir.str(), {});
  ASSERT_EQ(found.size(), 3u);
  EXPECT_TRUE(found[0].path.ends_with("mrqa/SQuAD.dev.jsonl.gz"));
  EXPECT_TRUE(found[1].path.ends_with("dev/TriviaQA-web.jsonl.gz"));
  EXPECT_TRUE(found[2].path.ends_with("validation_hotpot.jsonl.gz"));
  EXPECT_EQ(found[1].name, "triviaqa");
}

TEST(Benchmark, SaysWhatIsWrong) {
  const testing::TempDir dir;
  testing::expect_error(ErrorKind::kUsage, "unknown benchmark",
                        [&] { resolve_benchmarks({"sqaud"}, dir.str(), {}); });
  testing::expect_error(ErrorKind::kInput, "tried mrqa/SQuAD.dev.jsonl.gz",
                        [&] { resolve_benchmarks({"squad"}, dir.str(), {}); });
  testing::expect_error(ErrorKind::kUsage, "no set to evaluate",
                        [&] { resolve_benchmarks({}, dir.str(), {}); });
  SourceConfig entry;
  entry.path = "a/x.jsonl.gz";
  testing::expect_error(ErrorKind::kUsage, "have the name 'x'", [&] {
    resolve_benchmarks({}, dir.str(), {entry, entry});
  });
}

TEST(Benchmark, ListedSetsComeByTheirName) {
  SourceConfig entry;
  entry.path = "held.out.jsonl.gz";
  EXPECT_EQ(resolve_benchmarks({}, "", {entry})[0].name, "held.out");
  EXPECT_EQ(resolve_benchmarks({"held.out"}, "", {entry})[0].path, "held.out.jsonl.gz");
}

TEST(Methods, PlansAndRefuses) {
  const auto plans =
      plan_methods({"full", "checkpoint", "checkpoint=runs/icae/checkpoints/step-00000010"}, "runs/a");
  ASSERT_EQ(plans.size(), 3u);
  EXPECT_EQ(plans[1].checkpoint, "runs/a");
  EXPECT_EQ(plans[1].name, "checkpoint");
  EXPECT_EQ(plans[2].name, "icae");
  const auto cut = plan_methods({"bm25", "bm25=runs/prompt/", "truncate_head=runs/prompt"}, "");
  EXPECT_TRUE(cut[0].checkpoint.empty());
  EXPECT_EQ(cut[1].name, "bm25-prompt");
  EXPECT_EQ(cut[2].checkpoint, "runs/prompt");
  const auto foreign = plan_methods({"foreign", "foreign=runs/icae"}, "runs/a");
  EXPECT_EQ(foreign[0].checkpoint, "runs/a");
  EXPECT_EQ(foreign[0].name, "foreign");
  EXPECT_EQ(foreign[1].name, "foreign-icae");
  testing::expect_error(ErrorKind::kUsage, "'foreign' has no folder", [&] { plan_methods({"foreign"}, ""); });
  testing::expect_error(ErrorKind::kUsage, "'bm25' has no folder",
                        [&] { plan_methods({"bm25="}, "runs/a"); });
  testing::expect_error(ErrorKind::kUsage, "found 'ful'", [&] { plan_methods({"ful"}, ""); });
  testing::expect_error(ErrorKind::kUsage, "no folder", [&] { plan_methods({"checkpoint"}, ""); });
  testing::expect_error(ErrorKind::kUsage, "takes no folder", [&] { plan_methods({"full=x"}, ""); });
  testing::expect_error(ErrorKind::kUsage, "have the name 'full'", [&] {
    plan_methods({"full", "full"}, "");
  });
  testing::expect_error(ErrorKind::kUsage, "no method", [&] { plan_methods({}, ""); });
}

/// A set of `count` questions over passages of two, the first `right` of them answered.
SetResult set_result(const std::string& method, const std::string& set, int count, int right) {
  SetResult result;
  result.method = method;
  result.set = set;
  for (int i = 0; i < count; ++i) {
    QuestionRecord record;
    record.qid = fmt::format("q{}", i);
    record.question = "Who <is> it?";
    record.answers = {"Ada"};
    record.prediction = i < right ? "Ada" : "Bob";
    record.score = {i < right ? 1.0 : 0.0, i < right ? 1.0 : 0.0};
    record.context = i / 2;
    result.records.push_back(record);
  }
  result.contexts = count / 2;
  result.context_tokens = 40;
  result.vectors = 10;
  return result;
}

TEST(Results, WritesTheNamedLayoutAndTakesFinishedSetsUp) {
  const testing::TempDir dir;
  {
    EvalResults results(dir.str(), {"full", "checkpoint"}, {"squad"}, {}, 100);
    results.add(set_result("full", "squad", 20, 20), "key-full", {});
    EXPECT_FALSE(results.summary()["complete"].get<bool>());
    results.add(set_result("checkpoint", "squad", 20, 10), "key-checkpoint", {});
    EXPECT_TRUE(results.summary()["complete"].get<bool>());
  }
  const Json answers = read_json_file((dir / "predictions/squad.json").string());
  EXPECT_EQ(answers.at("q0"), "Ada");
  EXPECT_EQ(answers.at("q19"), "Bob");
  EXPECT_TRUE(fs::exists(dir / "predictions/full/squad.json"));
  EXPECT_TRUE(fs::exists(dir / "records/full/squad.jsonl"));
  const Json summary = read_json_file((dir / "results.json").string());
  EXPECT_DOUBLE_EQ(summary.at("macro").at("checkpoint").at("f1").get<double>(), 50);
  ASSERT_EQ(summary.at("paired").size(), 1u);
  EXPECT_DOUBLE_EQ(summary.at("paired")[0].at("f1").at("value").get<double>(), -50);
  EXPECT_NE(read_file((dir / "results.md").string()).find("100.0 [100.0, 100.0]"), std::string::npos);

  EvalResults again(dir.str(), {"full", "checkpoint"}, {"squad"}, {}, 100);
  EXPECT_TRUE(again.reuse("full", "squad", "key-full"));
  EXPECT_FALSE(again.reuse("checkpoint", "squad", "another key"));
  touch(dir / "records/squad.jsonl", "{}\n");  // no longer what results.json says
  EXPECT_FALSE(again.reuse("checkpoint", "squad", "key-checkpoint"));
}

TEST(Results, LikelihoodIsThereOnlyWhereItWasMeasured) {
  const testing::TempDir dir;
  SetResult worse = set_result("full", "squad", 8, 8), better = set_result("checkpoint", "squad", 8, 8);
  for (QuestionRecord& record : worse.records) record.score.nll = 2.5;
  for (QuestionRecord& record : better.records) record.score.nll = 2;
  for (const bool measured : {false, true}) {
    const std::string folder = (dir / (measured ? "with" : "without")).string();
    OrderedJson header = OrderedJson::object();
    header["nll"] = measured;
    {
      EvalResults results(folder, {"full", "checkpoint"}, {"squad"}, header, 100);
      results.add(worse, "a", {});
      results.add(better, "b", {});
    }
    EvalResults again(folder, {"full", "checkpoint"}, {"squad"}, header, 100);
    ASSERT_TRUE(again.reuse("full", "squad", "a") && again.reuse("checkpoint", "squad", "b"));
    const OrderedJson summary = again.summary();
    EXPECT_EQ(summary["macro"]["full"].contains("nll"), measured);
    EXPECT_EQ(results_markdown(summary).find("NLL") != std::string::npos, measured);
    if (!measured) continue;
    EXPECT_DOUBLE_EQ(summary["macro"]["full"]["nll"].get<double>(), 2.5);
    EXPECT_DOUBLE_EQ(summary["paired"][0]["nll"]["value"].get<double>(), -0.5);
    EXPECT_LT(summary["paired"][0]["nll_p"].get<double>(), 0.05);
  }
}

TEST(Results, LikelihoodAloneHasNoScores) {
  const testing::TempDir dir;
  OrderedJson header = {{"nll", true}, {"answers", false}};
  {
    EvalResults results(dir.str(), {"full", "checkpoint"}, {"squad"}, header, 100);
    for (const char* method : {"full", "checkpoint"}) {
      SetResult result = set_result(method, "squad", 8, 0);
      result.likelihood_alone = true;
      for (QuestionRecord& record : result.records) record.score.nll = method == std::string("full") ? 2 : 3;
      results.add(result, method, {});
    }
  }
  EXPECT_FALSE(fs::exists(dir / "predictions/squad.json"));
  EXPECT_EQ(read_file((dir / "records/squad.jsonl").string()).find("prediction"), std::string::npos);
  EvalResults again(dir.str(), {"full", "checkpoint"}, {"squad"}, header, 100);
  ASSERT_TRUE(again.reuse("full", "squad", "full") && again.reuse("checkpoint", "squad", "checkpoint"));
  const OrderedJson summary = again.summary();
  EXPECT_FALSE(summary["macro"]["full"].contains("f1"));
  EXPECT_DOUBLE_EQ(summary["macro"]["checkpoint"]["nll"].get<double>(), 3);
  EXPECT_EQ(summary["macro"]["checkpoint"]["sets"], 1);
  EXPECT_DOUBLE_EQ(summary["paired"][0]["nll"]["value"].get<double>(), 1);
  const std::string markdown = results_markdown(summary);
  for (const char* absent : {"F1", "Exact match", "EM difference", "percentage"})
    EXPECT_EQ(markdown.find(absent), std::string::npos) << markdown;
  EXPECT_NE(markdown.find("+1.000 [+1.000, +1.000]"), std::string::npos) << markdown;
  EXPECT_EQ(make_report({dir.str()}).html.find("F1"), std::string::npos);
}

TEST(Results, PlainTextStandsApart) {
  const testing::TempDir dir;
  const auto text_result = [](const char* method, double nll) {
    SetResult result = set_result(method, "wiki", 6, 0);
    result.continued = true;
    for (QuestionRecord& record : result.records) record.score = {0, 0, nll};
    return result;
  };
  const std::vector<std::string> methods = {"full", "checkpoint"}, sets = {"squad", "wiki"};
  {
    EvalResults results(dir.str(), methods, sets, OrderedJson::object(), 100);
    for (const char* method : {"full", "checkpoint"}) results.add(set_result(method, "squad", 8, 4), "q", {});
    results.add(text_result("full", 2), "t", {});
    results.add(text_result("checkpoint", 3), "t", {});
  }
  EXPECT_FALSE(fs::exists(dir / "predictions/wiki.json"));
  EvalResults again(dir.str(), methods, sets, OrderedJson::object(), 100);
  for (const std::string& method : methods)
    for (const std::string& set : sets) ASSERT_TRUE(again.reuse(method, set, set == "wiki" ? "t" : "q"));
  const OrderedJson summary = again.summary();
  EXPECT_DOUBLE_EQ(summary["macro"]["checkpoint"]["f1"].get<double>(), 50);  // of the questions alone
  EXPECT_EQ(summary["macro"]["checkpoint"]["sets"], 1);
  ASSERT_EQ(summary["paired"].size(), 2u);
  EXPECT_FALSE(summary["paired"][0].contains("nll"));  // the answers' was not asked for
  EXPECT_DOUBLE_EQ(summary["paired"][1]["nll"]["value"].get<double>(), 1);
  EXPECT_FALSE(summary["paired"][1].contains("f1"));
  const std::string markdown = results_markdown(summary);
  EXPECT_NE(markdown.find("wiki (n=6): NLL"), std::string::npos) << markdown;
  EXPECT_NE(markdown.find("20.09"), std::string::npos) << markdown;  // e^3
  EXPECT_EQ(markdown.find("wiki (n=6) "), std::string::npos) << "among the scores of answers";
  const Report report = make_report({dir.str()});
  EXPECT_NE(report.html.find("20.09"), std::string::npos);
}

TEST(Results, TextAloneHasNoScores) {
  const testing::TempDir dir;
  SetResult result = set_result("full", "wiki", 6, 0);
  result.continued = true;
  EvalResults results(dir.str(), {"full"}, {"wiki"}, {}, 100);
  results.add(result, "t", {});
  const OrderedJson summary = results.summary();
  EXPECT_TRUE(summary["macro"].empty());
  EXPECT_EQ(results_markdown(summary).find("F1"), std::string::npos);
  EXPECT_EQ(make_report({dir.str()}).html.find("F1"), std::string::npos);
}

TEST(Results, WhatIsTakenUpLastIsInTheFileToo) {
  const testing::TempDir dir;
  const auto entries = [&] { return read_json_file((dir / "results.json").string()).at("entries").size(); };
  {
    EvalResults results(dir.str(), {"full", "checkpoint"}, {"squad"}, {}, 100);
    results.add(set_result("full", "squad", 8, 8), "a", {});
    results.add(set_result("checkpoint", "squad", 8, 4), "b", {});
  }
  {
    EvalResults one(dir.str(), {"full", "checkpoint"}, {"squad"}, {}, 100);
    ASSERT_TRUE(one.reuse("full", "squad", "a"));
    one.finish();  // nothing new: the file keeps what was not asked for this time
    EXPECT_EQ(entries(), 2u);
  }
  EvalResults again(dir.str(), {"full", "checkpoint"}, {"squad"}, {}, 100);
  again.add(set_result("full", "squad", 8, 8), "another", {});
  ASSERT_TRUE(again.reuse("checkpoint", "squad", "b"));
  EXPECT_EQ(entries(), 1u);
  again.finish();
  EXPECT_EQ(entries(), 2u);
}

TEST(Results, TheOnlyMethodHasThePlainPlace) {
  const testing::TempDir dir;
  EvalResults results(dir.str(), {"none"}, {"squad"}, {}, 100);
  results.add(set_result("none", "squad", 4, 0), "k", {});
  EXPECT_TRUE(fs::exists(dir / "predictions/squad.json"));
}

TEST(Results, BrokenEarlierResultsAreMadeAnew) {
  const testing::TempDir dir;
  touch(dir / "results.json", "{ not json");
  EvalResults results(dir.str(), {"none"}, {"squad"}, {}, 100);
  EXPECT_FALSE(results.reuse("none", "squad", "k"));
}

TEST(Report, ShowsCurveTablesAndAnswers) {
  const testing::TempDir dir;
  std::string log;
  for (int step = 0; step < 30; ++step)
    log += fmt::format("{{\"step\": {}, \"loss\": {}, \"seconds\": 1}}\n", step, 5.0 / (1 + step));
  touch(dir / "log.jsonl", log + "{\"step\": 29, \"valid_loss\": 0.4}\n");
  touch(dir / "samples.jsonl",
        "{\"step\": 10, \"question\": \"old?\", \"prediction\": \"x\", \"answers\": [\"y\"]}\n"
        "{\"step\": 30, \"question\": \"new <b>?\", \"prediction\": \"Ada\", \"answers\": [\"Ada\"]}\n");
  EvalResults results((dir / "eval").string(), {"checkpoint"}, {"squad"}, {}, 100);
  fs::create_directories(dir / "eval");
  results.add(set_result("checkpoint", "squad", 6, 3), "k", {});
  const Report report = make_report({dir.str()});
  for (const char* part : {"<svg", "validation", "new &lt;b&gt;?", "Who &lt;is&gt; it?", "50.0 ["})
    EXPECT_NE(report.html.find(part), std::string::npos) << part;
  EXPECT_EQ(report.html.find("old?"), std::string::npos);
  EXPECT_NE(report.markdown.find("| checkpoint"), std::string::npos);
}

TEST(Report, SaysWhatIsWrong) {
  const testing::TempDir dir;
  testing::expect_error(ErrorKind::kInput, "no such folder",
                        [&] { make_report({(dir / "absent").string()}); });
  testing::expect_error(ErrorKind::kInput, "nothing to report", [&] { make_report({dir.str()}); });
  touch(dir / "log.jsonl", "{\"step\": 0, \"loss\": 1}\n{\"step\": ");
  testing::expect_error(ErrorKind::kInput, "log.jsonl:2:", [&] { make_report({dir.str()}); });
  fs::remove(dir / "log.jsonl");
  touch(dir / "results.json", "{\"methods\": []}");
  testing::expect_error(ErrorKind::kInput, "not the results of an evaluation",
                        [&] { make_report({dir.str()}); });
}

}  // namespace
}  // namespace ctxc
