#include "eval/eval_score.h"

#include <fstream>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "testing.h"

namespace ctxc {
namespace {

void write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path) << text;
}

ErrorKind kind_of(const std::function<void()>& body, std::string* message = nullptr) {
  try {
    body();
  } catch (const Error& error) {
    if (message) *message = error.what();
    return error.kind();
  }
  return ErrorKind::kInternal;
}

class ScoreFiles : public ::testing::Test {
 protected:
  /// Gold and predictions of the golden cases; `every`: only each so-manyth case is answered.
  void write_cases(size_t every) {
    file_ = read_json_file((testing::root() / "tests/fixtures/metrics/mrqa_cases.json").string());
    std::string gold = R"({"header": {"dataset": "x", "split": "dev"}})"
                       "\n";
    Json predictions = Json::object();
    for (size_t i = 0; i < file_.at("cases").size(); ++i) {
      const Json& item = file_.at("cases")[i];
      gold += Json{{"qas", {{{"qid", item.at("id")}, {"answers", item.at("answers")}}}}}.dump() + "\n";
      if (i % every == 0) predictions[item.at("id").get<std::string>()] = item.at("prediction");
    }
    predictions["unknown"] = "ignored";
    write(gold_, gold);
    write(predictions_, predictions.dump());
  }
  FileScore score(bool skip = false, const std::string& details = "") {
    return score_files(gold_.string(), predictions_.string(), skip, details);
  }
  void expect(const FileScore& score, const char* key, int64_t questions) {
    EXPECT_NEAR(score.exact_match, file_.at(key).at("exact_match").get<double>(), 1e-9);
    EXPECT_NEAR(score.f1, file_.at(key).at("f1").get<double>(), 1e-9);
    EXPECT_EQ(score.questions, questions);
  }
  testing::TempDir dir_;
  std::filesystem::path gold_ = dir_ / "gold.jsonl", predictions_ = dir_ / "predictions.json";
  Json file_;
};

TEST_F(ScoreFiles, AggregatesEqualTheOfficialScript) {
  write_cases(1);
  expect(score(), "aggregate_percent", 60);
  write_cases(2);
  expect(score(), "aggregate_percent_only_even_index_predicted", 60);
  expect(score(true), "aggregate_percent_only_even_index_predicted_skip_no_answer", 30);
}

TEST_F(ScoreFiles, WritesEveryQuestion) {
  write_cases(2);
  const std::string details = (dir_ / "out.jsonl").string();
  score(false, details);
  double sum = 0;
  int64_t lines = 0;
  for_each_line(details, [&](std::string_view line, int64_t) {
    const Json row = parse_json(line, details);
    EXPECT_TRUE(row.at("qid").is_string());
    sum += row.at("f1").get<double>();
    ++lines;
  });
  EXPECT_EQ(lines, 60);
  EXPECT_NEAR(sum / 60 * 100, score().f1, 1e-9);
}

TEST_F(ScoreFiles, ReadsSquadAndRows) {
  write(
      gold_,
      "{\n \"data\": [{\"paragraphs\": [{\"context\": \"c\", \"qas\": [{\"id\": \"1\", \"question\": \"q\", "
      "\"answers\": [{\"text\": \"Rome\"}]}]}]}]}\n");
  std::filesystem::rename(gold_, dir_ / "gold.json");
  write(predictions_, R"({"1": "rome!", "2": "x"})");
  EXPECT_EQ(score_files((dir_ / "gold.json").string(), predictions_.string(), false, "").exact_match, 100);
  write(gold_, R"({"id": "1", "answers": "Rome"})"
               "\n"
               R"({"qid": "2", "answers": [""]})"
               "\n"
               R"({"qid": "3", "answers": []})"
               "\n");
  EXPECT_NEAR(score().exact_match, 100.0 / 3, 1e-9);
}

TEST_F(ScoreFiles, BrokenFilesAreInputErrors) {
  std::string message;
  write(predictions_, R"({"1": "x"})");
  write(gold_, R"({"header": {}})"
               "\n");
  EXPECT_EQ(kind_of([&] { score(); }, &message), ErrorKind::kInput);
  EXPECT_NE(message.find("holds no question"), std::string::npos);
  write(gold_, "");
  EXPECT_EQ(kind_of([&] { score(); }), ErrorKind::kInput);
  write(gold_, R"({"qas": [{"qid": "2", "answers": ["x"]}]})"
               "\n");
  EXPECT_EQ(kind_of([&] { score(true); }), ErrorKind::kInput);
  write(gold_, R"({"qas": [{"qid": "2", "answers": ["x"]}]})"
               "\n{\"qas\": [{\"qid\": 7}]}\n");
  EXPECT_EQ(kind_of([&] { score(); }, &message), ErrorKind::kInput);
  EXPECT_NE(message.find("gold.jsonl:2"), std::string::npos) << message;
  for (const char* row :
       {R"({"qas": 1})", R"({"qas": [1]})", R"({"qas": [{"qid": "1", "answers": 3}]})",
        R"({"qas": [{"qid": "1", "answers": [3]}]})", R"({"qas": [{"qid": "1"}]})", "[1]", "{\"qas\""}) {
    write(gold_, row);
    EXPECT_EQ(kind_of([&] { score(); }), ErrorKind::kInput) << row;
  }
  write(gold_, R"({"qas": [{"qid": "1", "answers": ["x"]}]})");
  for (const char* text : {"[]", "", "{\"1\": 3}", "{\"1\": \"x\"", "{\"1\": \"\xff\"}"}) {
    write(predictions_, text);
    EXPECT_EQ(kind_of([&] { score(); }), ErrorKind::kInput) << text;
  }
  const std::string details = (dir_ / "out.jsonl").string();
  EXPECT_THROW(score(false, details), Error);
  EXPECT_FALSE(std::filesystem::exists(details));
}

}  // namespace
}  // namespace ctxc
