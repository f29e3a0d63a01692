// The real files beside the project: every row is read, and the numbers are those of their README.
#include "data_helpers.h"

namespace ctxc {
namespace {

struct Expected {
  const char* file;
  int64_t contexts, questions;
};

TEST(RealData, MrqaFilesHoldWhatTheirReadmeSays) {
  CTXC_NEEDS_SHARED();
  const testing::TempDir dir;
  const Prompt prompt = testing::plain_prompt(dir);
  ExampleRules rules;
  rules.evaluation = true;
  for (const Expected& expected : {Expected{"SQuAD.dev", 620, 3000},
                                   {"NaturalQuestions.dev", 650, 650},
                                   {"NewsQA.dev", 3, 17},
                                   {"DuoRC.dev", 17, 125}}) {
    SourceConfig config;
    config.path = std::string("data/mrqa/") + expected.file + ".jsonl.gz";
    const auto source = open_source(config, testing::shared().string(), rules, prompt);
    EXPECT_EQ(source->stats().contexts, expected.contexts) << expected.file;
    EXPECT_EQ(source->stats().queries, expected.questions) << expected.file;
    EXPECT_EQ(source->stats().dropped, 0) << expected.file;
    EXPECT_EQ(source->name(), std::string(expected.file).substr(0, std::string(expected.file).find('.')));
    EXPECT_GT(source->stats().truncated, 0) << expected.file;
  }
}

TEST(RealData, TextBecomesBlocks) {
  CTXC_NEEDS_SHARED();
  const testing::TempDir dir;
  SourceConfig config;
  config.path = "data/text/wikitext2.jsonl.gz";
  config.max_samples = 500;
  const auto source = open_source(config, testing::shared().string(), {}, testing::plain_prompt(dir));
  ASSERT_EQ(source->size(), 500);
  EXPECT_EQ(source->example(0).context.front(), testing::kBos);
  EXPECT_EQ(source->example(499).context.size(), 512u);
  EXPECT_EQ(source->example(499).queries[0].target.size(), 128u);
}

}  // namespace
}  // namespace ctxc
