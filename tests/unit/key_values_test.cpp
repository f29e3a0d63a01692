#include "data/key_values.h"

#include <fmt/format.h>

#include <map>
#include <set>
#include <sstream>
#include <vector>

#include "core/error.h"
#include "data/tokenizer.h"
#include "testing.h"

namespace ctxc {
namespace {

KeyValuesConfig config_of(const std::string& split = "train", int64_t seed = 0) {
  KeyValuesConfig config;
  config.split = split;
  config.seed = seed;
  return config;
}

/// The last value of every key, read back from the text.
std::map<std::string, std::string> last_values(const std::string& context, int64_t lead,
                                               int64_t value_tokens) {
  std::istringstream words(context);
  std::string word;
  for (int64_t i = 0; i < lead; ++i) words >> word;
  std::map<std::string, std::string> values;
  while (words >> word) {
    const std::string key = " " + word;
    values[key].clear();
    for (int64_t i = 0; i < value_tokens && words >> word; ++i) values[key] += " " + word;
  }
  return values;
}

TEST(KeyValues, IsAFunctionOfItsKeysAndTheIndex) {
  EXPECT_EQ(key_values_passage(config_of(), 5).context, key_values_passage(config_of(), 5).context);
  EXPECT_NE(key_values_passage(config_of(), 5).context, key_values_passage(config_of(), 6).context);
  EXPECT_NE(key_values_passage(config_of(), 5).context, key_values_passage(config_of("train", 1), 5).context);
}

TEST(KeyValues, TheLastValueOfAKeyIsTheAnswer) {
  int64_t overwritten = 0;
  std::set<std::string> ids;
  for (int64_t value_tokens : {1, 3})
    for (int64_t index = 0; index < 200; ++index) {
      KeyValuesConfig config = config_of();
      config.value_tokens = value_tokens;
      config.lead = index % 3;
      const Passage passage = key_values_passage(config, index);
      const auto values = last_values(passage.context, config.lead, value_tokens);
      overwritten += static_cast<int64_t>(values.size()) < config.pairs;
      ASSERT_EQ(passage.questions.size(), std::min<size_t>(4, values.size()));
      std::set<std::string> asked;
      for (const Question& question : passage.questions) {
        asked.insert(question.text);
        ids.insert(question.id);
        ASSERT_TRUE(values.count(question.text)) << passage.context;
        EXPECT_EQ(question.answers, std::vector<std::string>{values.at(question.text)}) << passage.context;
      }
      EXPECT_EQ(asked.size(), passage.questions.size());
    }
  EXPECT_GT(overwritten, 300);
  EXPECT_GT(ids.size(), 700u);
}

TEST(KeyValues, AnIdSaysHowManyPairsStandBeforeTheOneThatAnswers) {
  std::map<std::string, int64_t> depths;
  for (int64_t index = 0; index < 200; ++index) {
    KeyValuesConfig config = config_of();
    config.value_tokens = 2;
    config.lead = index % 2;
    const Passage passage = key_values_passage(config, index);
    std::istringstream read(passage.context);
    std::vector<std::string> words;
    for (std::string word; read >> word;) words.push_back(" " + word);
    for (const Question& question : passage.questions) {
      const std::string depth = question.id.substr(question.id.find('@'));
      int64_t last = -1;
      for (int64_t pair = 0; pair < config.pairs; ++pair) {
        const auto first = words.begin() + config.lead + 3 * pair;
        if (first[0] != question.text) continue;
        last = pair;
        if (depth == fmt::format("@depth={}/8", pair)) {
          EXPECT_EQ(question.answers[0], first[1] + first[2]) << passage.context;
        }
      }
      EXPECT_EQ(depth, fmt::format("@depth={}/8", last)) << passage.context << question.text;
      ++depths[depth];
    }
  }
  EXPECT_EQ(depths.size(), 8u);
}

TEST(KeyValues, TrainAndValidShareNoRowWhateverSeedAndLead) {
  // Few enough rows that random draws would meet: 4 keys with 8 values, two pairs.
  const auto rows_of = [](KeyValuesConfig config) {
    config.pairs = 2;
    config.keys = 4;
    config.values = 8;
    std::set<std::string> rows;
    for (int64_t index = 0; index < 3000; ++index) {
      const std::string context = key_values_passage(config, index).context;
      rows.insert(config.lead > 0 ? context.substr(std::string(" town").size()) : context);
    }
    return rows;
  };
  KeyValuesConfig shifted = config_of("valid", 7);
  shifted.lead = 1;
  const auto train = rows_of(config_of());
  EXPECT_GT(train.size(), 700u);
  for (const std::string& row : rows_of(shifted)) EXPECT_EQ(train.count(row), 0u) << row;
}

TEST(KeyValues, EveryWordIsOneTokenOfTheEmbeddedBase) {
  const Tokenizer tokenizer = Tokenizer::load((testing::root() / "models/tiny-facts").string());
  KeyValuesConfig config = config_of();
  config.keys = 40;
  config.pairs = 16;
  config.value_tokens = 3;
  config.values = 32768;
  config.lead = 1;
  for (int64_t index = 0; index < 100; ++index) {
    const Passage passage = key_values_passage(config, index);
    EXPECT_EQ(tokenizer.encode(passage.context).size(), 1u + 16u * 4u);
    EXPECT_EQ(tokenizer.encode(passage.questions[0].text).size(), 1u);
    EXPECT_EQ(tokenizer.encode(passage.questions[0].answers[0]).size(), 3u);
  }
}

TEST(KeyValues, ASmallAlphabetOfStringsIsSmall) {
  KeyValuesConfig config = config_of();
  config.value_tokens = 3;
  config.values = 5;
  std::set<std::string> values, words;
  for (int64_t index = 0; index < 200; ++index)
    for (const Question& question : key_values_passage(config, index).questions) {
      values.insert(question.answers[0]);
      std::istringstream read(question.answers[0]);
      for (std::string word; read >> word;) words.insert(word);
    }
  EXPECT_EQ(values.size(), 5u);
  EXPECT_GT(words.size(), 8u);  // scattered: they do not share their words
}

TEST(KeyValues, ImpossibleKeysAreErrors) {
  KeyValuesConfig config = config_of();
  config.values = 33;
  EXPECT_THROW(key_values_passage(config, 0), Error);
  config.value_tokens = 2;
  EXPECT_NO_THROW(key_values_passage(config, 0));
  config = config_of();
  config.pairs = config.keys = config.values = 1;  // a single row, which belongs to one of the splits
  const auto is_error = [&](const std::string& split) {
    config.split = split;
    try {
      key_values_passage(config, 0);
    } catch (const Error&) {
      return true;
    }
    return false;
  };
  EXPECT_NE(is_error("train"), is_error("valid"));
}

}  // namespace
}  // namespace ctxc
