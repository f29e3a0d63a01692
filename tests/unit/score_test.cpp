#include "eval/score.h"

#include "core/error.h"
#include "core/json.h"
#include "testing.h"

namespace ctxc {
namespace {

Json cases() {
  return read_json_file((testing::root() / "tests/fixtures/metrics/mrqa_cases.json").string());
}

TEST(Score, EqualsTheOfficialScript) {
  const Json file = cases();
  ASSERT_EQ(file.at("cases").size(), 60u);
  for (const Json& item : file.at("cases")) {
    const std::string id = item.at("id");
    const auto answers = item.at("answers").get<std::vector<std::string>>();
    EXPECT_EQ(normalize_answer(item.at("prediction").get<std::string>()), item.at("normalized_prediction"))
        << id;
    for (size_t i = 0; i < answers.size(); ++i)
      EXPECT_EQ(normalize_answer(answers[i]), item.at("normalized_answers")[i]) << id;
    const Score score = score_answer(item.at("prediction").get<std::string>(), answers);
    EXPECT_EQ(score.exact_match, item.at("exact_match").get<double>()) << id;
    EXPECT_NEAR(score.f1, item.at("f1").get<double>(), 1e-9) << id;
  }
}

TEST(Score, NormalisesUnicodeAsPythonDoes) {
  EXPECT_EQ(normalize_answer("\xC4\xB0stanbul"), "i\xCC\x87stanbul");                   // U+0130 -> i, U+0307
  EXPECT_EQ(normalize_answer("\xCE\xA3\xCE\x91\xCE\xA3"), "\xCF\x83\xCE\xB1\xCF\x82");  // final sigma
  EXPECT_EQ(normalize_answer("A.N. other a-n the_ thing"),
            "other thing");                                       // deleted, not replaced by a space
  EXPECT_EQ(normalize_answer("a\xCC\x81 b"), "\xCC\x81 b");       // a combining mark is no word character
  EXPECT_EQ(normalize_answer("the\xC2\xB2 x"), "the\xC2\xB2 x");  // a superscript two is one
  EXPECT_EQ(normalize_answer("x\xC2\xA0y\xE3\x80\x80z\xE2\x80\x8Bw"),
            "x y z\xE2\x80\x8Bw");  // U+200B is no space
  EXPECT_EQ(normalize_answer("1.5 \xE2\x82\xAC"), "15 \xE2\x82\xAC");
  EXPECT_EQ(normalize_answer(""), "");
}

TEST(Score, BothEmptyIsAnExactMatchWithoutF1) {
  const Score score = score_answer("the", {"a"});
  EXPECT_EQ(score.exact_match, 1);
  EXPECT_EQ(score.f1, 0);
  const Score none = score_answer("x", {});
  EXPECT_EQ(none.exact_match, 0);
  EXPECT_EQ(none.f1, 0);
}

/// `contexts` contexts of `each` questions; whole contexts are right or wrong.
std::vector<ScoredQuestion> clustered(int contexts, int each) {
  std::vector<ScoredQuestion> questions;
  for (int c = 0; c < contexts; ++c)
    for (int q = 0; q < each; ++q) {
      const double value = c % 2;
      questions.push_back({{value, value / 2}, c});
    }
  return questions;
}

TEST(ScoreSummary, MeansAndIntervals) {
  const auto questions = clustered(40, 10);
  const ScoreSummary summary = summarize_scores(questions, 1000, 1);
  EXPECT_DOUBLE_EQ(summary.exact_match, 50);
  EXPECT_DOUBLE_EQ(summary.f1, 25);
  EXPECT_EQ(summary.questions, 400);
  EXPECT_EQ(summary.contexts, 40);
  // 40 independent contexts: standard error sqrt(0.25 / 40) = 7.9 points, so about 50 ± 15.5.
  EXPECT_NEAR(summary.exact_match_95.low, 34.5, 2.6);
  EXPECT_NEAR(summary.exact_match_95.high, 65.5, 2.6);
  EXPECT_NEAR(summary.f1_95.low, 17.3, 1.5);
  const ScoreSummary again = summarize_scores(questions, 1000, 1);
  EXPECT_EQ(summary.exact_match_95.low, again.exact_match_95.low);
  EXPECT_THROW(summarize_scores({}), Error);
}

TEST(ScoreSummary, PairedTestSeesWhatIsShared) {
  auto first = clustered(100, 2), second = first, same = first;
  for (size_t i = 0; i < second.size(); i += 10)
    second[i].score.exact_match = 1;  // never worse, better in 10 contexts
  const PairedDifference better = compare_scores(first, second);
  EXPECT_DOUBLE_EQ(better.exact_match, 5);
  EXPECT_DOUBLE_EQ(better.exact_match_p, 2.0 / 1001);  // 1000 resamples show no smaller one
  EXPECT_GT(better.exact_match_95.low, 0);
  EXPECT_DOUBLE_EQ(better.f1, 0);
  EXPECT_DOUBLE_EQ(better.f1_p, 1);
  EXPECT_DOUBLE_EQ(compare_scores(first, same).exact_match_p, 1);
  second.pop_back();
  EXPECT_THROW(compare_scores(first, second), Error);
  same[0].context = 77;
  EXPECT_THROW(compare_scores(first, same), Error);
}

TEST(ScoreSummary, MacroMeanWeighsSetsAlike) {
  const std::vector<ScoreSummary> sets = {{10, 20, {}, {}, 1000, 10}, {30, 60, {}, {}, 1, 1}};
  EXPECT_DOUBLE_EQ(macro_mean(sets).exact_match, 20);
  EXPECT_DOUBLE_EQ(macro_mean(sets).f1, 40);
  EXPECT_EQ(macro_mean({}).f1, 0);
}

}  // namespace
}  // namespace ctxc
