#include "data/synthetic.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "testing.h"

namespace ctxc {
namespace {

SyntheticConfig config_of(const std::string& wording, const std::string& split = "train", int64_t seed = 0) {
  SyntheticConfig config;
  config.wording = wording;
  config.split = split;
  config.seed = seed;
  config.people_max = 4;
  config.facts_max = 4;
  config.filler = 3;
  return config;
}

TEST(Synthetic, IsAFunctionOfItsKeysAndTheIndex) {
  const auto config = config_of("mixed");
  EXPECT_EQ(synthetic_passage(config, 5).context, synthetic_passage(config, 5).context);
  EXPECT_NE(synthetic_passage(config, 5).context, synthetic_passage(config, 6).context);
  EXPECT_NE(synthetic_passage(config, 5).context,
            synthetic_passage(config_of("mixed", "train", 1), 5).context);
}

TEST(Synthetic, EveryAnswerStandsWhereItIsSaidToStand) {
  std::set<std::string> ids;
  for (const char* wording : {"easy", "question", "mixed"})
    for (int64_t i = 0; i < 300; ++i) {
      const OrderedJson line = synthetic_mrqa_line(config_of(wording), i);
      const std::string context = line.at("context");
      EXPECT_GE(line.at("qas").size(), 2u);
      for (const auto& qa : line.at("qas")) {
        const std::string answer = qa.at("answers")[0];
        const auto span = qa.at("detected_answers")[0].at("char_spans")[0].get<std::vector<size_t>>();
        EXPECT_EQ(context.substr(span[0], span[1] - span[0] + 1), answer);
        EXPECT_EQ(qa.at("qid").get<std::string>().size(), 32u);
        if (wording == std::string("easy")) {
          // The question is the beginning of the fact's sentence: what follows it in the passage is the
          // answer.
          const std::string beginning = " " + qa.at("question").get<std::string>() + " ";
          EXPECT_EQ(context.find(beginning) + beginning.size(), span[0]);
          EXPECT_EQ(context.find(beginning), context.rfind(beginning));
          ids.insert(qa.at("qid").get<std::string>());
        }
      }
    }
  EXPECT_GT(ids.size(), 1500u);
}

TEST(Synthetic, TrainAndValidShareNoSetOfFacts) {
  const auto facts_of = [](const SyntheticConfig& config) {
    std::set<std::string> result;
    for (int64_t i = 0; i < 2000; ++i) {
      std::vector<std::string> facts;
      for (const Question& question : synthetic_passage(config, i).questions)
        facts.push_back(question.text + " " + question.answers[0]);
      std::sort(facts.begin(), facts.end());
      std::string key;
      for (const std::string& fact : facts) key += fact + "|";
      result.insert(key);
    }
    return result;
  };
  // One person with two facts: there are few enough sets that random draws would meet.
  auto train = config_of("easy"), valid = config_of("easy", "valid", 7);
  train.people_max = valid.people_max = 1;
  train.facts_min = train.facts_max = valid.facts_min = valid.facts_max = 1;
  const auto seen = facts_of(train);
  EXPECT_GT(seen.size(), 1000u);
  for (const std::string& key : facts_of(valid)) EXPECT_EQ(seen.count(key), 0u) << key;
}

TEST(Synthetic, WordingsGrowHarder) {
  EXPECT_EQ(synthetic_passage(config_of("easy"), 3).context,
            synthetic_passage(config_of("question"), 3).context);
  const std::string easy = synthetic_passage(config_of("easy"), 3).questions[0].text;
  const std::string question = synthetic_passage(config_of("question"), 3).questions[0].text;
  EXPECT_TRUE(question.ends_with("? " + easy)) << question;
  std::set<std::string> leads;
  for (int64_t i = 0; i < 200; ++i) {
    const std::string context = synthetic_passage(config_of("mixed"), i).context;
    leads.insert(context.substr(0, context.find(':')));
  }
  EXPECT_GT(leads.size(), 2u);
}

TEST(Synthetic, SharedFactsLeaveOnlyTheNameToTellThemApart) {
  SyntheticConfig config;
  config.people_min = config.people_max = 4;
  config.facts_min = config.facts_max = 1;
  config.shared_facts = true;
  for (int64_t index = 0; index < 20; ++index) {
    const Passage passage = synthetic_passage(config, index);
    ASSERT_EQ(passage.questions.size(), 4u);
    std::set<std::string> endings, names;
    for (const auto& question : passage.questions) {
      const size_t space = question.text.find(' ');
      names.insert(question.text.substr(0, space));
      endings.insert(question.text.substr(space));
    }
    EXPECT_EQ(names.size(), 4u);
    EXPECT_EQ(endings.size(), 1u) << passage.context;
  }
}

TEST(Synthetic, BadRangesAreErrors) {
  auto config = config_of("easy");
  config.people_min = 5;
  EXPECT_THROW(synthetic_passage(config, 0), Error);
  config = config_of("easy");
  config.facts_min = 5;
  EXPECT_THROW(synthetic_passage(config, 0), Error);
}

TEST(Synthetic, WritesAHeaderAndEveryPassage) {
  const testing::TempDir dir;
  auto config = config_of("easy", "valid");
  config.count = 12;
  const std::string path = (dir / "facts.jsonl").string();
  write_synthetic_mrqa(config, path);
  int64_t lines = 0;
  for_each_line(path, [&](std::string_view line, int64_t number) {
    const Json row = parse_json(line, path, number);
    EXPECT_EQ(row.contains("header"), number == 1);
    lines = number;
  });
  EXPECT_EQ(lines, 13);
}

}  // namespace
}  // namespace ctxc
