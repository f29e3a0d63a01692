#include "train/run_config.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "throws.h"
#include "train_runs.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::tiny_config;

TEST(RunConfig, ReadsItsOwnDumpBack) {
  const RunConfig config = tiny_config("runs/x", {"train.lr=0.5"}, "{name: truncate_head, ratio: 2}");
  const std::string dumped = dump_config(config);
  const RunConfig again = resolve_run_config(Yaml::parse(dumped, "dump"));
  EXPECT_EQ(dump_config(again), dumped);
  EXPECT_EQ(again.train.lr, 0.5);
  EXPECT_EQ(again.compressor.find("ratio")->scalar(), "2");
  EXPECT_TRUE(changed_keys(config, again).empty());
}

TEST(RunConfig, FillsInDefaults) {
  const RunConfig config = tiny_config("\"\"", {"train.steps=5"}, "{name: truncate_head}");
  EXPECT_EQ(config.directory(), "runs/tiny");
  EXPECT_EQ(config.compressor.find("ratio")->scalar(), "4");
  EXPECT_EQ(config.objective_weights(), (std::map<std::string, double>{{"ce", 1.0}}));
  const LlamaConfig llama = config.llama(900);
  EXPECT_EQ(llama.vocab_size, 900);
  EXPECT_EQ(llama.head_dim, 16);
  EXPECT_TRUE(llama.tie_word_embeddings);
}

TEST(RunConfig, NamesUnknownKeysAndMethods) {
  const std::string hint = expect_error(ErrorKind::kUsage, "train.learning_rate",
                                        [] { tiny_config("x", {"train.learning_rate=1"}); });
  expect_error(ErrorKind::kUsage, "lrr", [] { tiny_config("x", {"train.lrr=1"}); });
  EXPECT_NE(expect_error(ErrorKind::kUsage, "unknown compressor (found 'fulll'",
                         [] { tiny_config("x", {}, "{name: fulll}"); })
                .find("full"),
            std::string::npos);
  expect_error(ErrorKind::kUsage, "compressor.name is missing", [] { tiny_config("x", {}, "{ratio: 4}"); });
  expect_error(ErrorKind::kUsage, "compressor: wrong type", [] { tiny_config("x", {}, "full"); });
  expect_error(ErrorKind::kUsage, "ratioo", [] { tiny_config("x", {}, "{name: truncate_head, ratioo: 4}"); });
}

TEST(RunConfig, RefusesValuesThatCannotWork) {
  expect_error(ErrorKind::kUsage, "train.betas: wrong length",
               [] { tiny_config("x", {"train.betas=[0.9]"}); });
  expect_error(ErrorKind::kUsage, "nothing to train", [] { tiny_config("x", {"train.steps=0"}); });
  expect_error(ErrorKind::kUsage, "train.lr", [] { tiny_config("x", {"train.lr=-1"}); });
  expect_error(ErrorKind::kUsage, "train.schedule", [] { tiny_config("x", {"train.schedule=stairs"}); });
  expect_error(ErrorKind::kUsage, "no term has a weight", [] { tiny_config("x", {"objective={ce: 0}"}); });
  expect_error(ErrorKind::kUsage, "objective.ce: wrong value",
               [] { tiny_config("x", {"objective={ce: much}"}); });
  expect_error(ErrorKind::kUsage, "objective: wrong type", [] { tiny_config("x", {"objective=[ce]"}); });
  expect_error(ErrorKind::kUsage, "backbone.path is missing",
               [] { tiny_config("x", {"backbone.init=pretrained"}); });
  expect_error(ErrorKind::kUsage, "backbone.tokenizer is missing",
               [] { tiny_config("x", {"backbone.tokenizer=\"\""}); });
  expect_error(ErrorKind::kUsage, "is not a multiple of",
               [] { tiny_config("x", {"backbone.shape.hidden_size=33"}).llama(10); });
  expect_error(ErrorKind::kUsage, "cannot share", [] {
    tiny_config("x", {"backbone.shape.num_attention_heads=4", "backbone.shape.num_key_value_heads=3"})
        .llama(10);
  });
  expect_error(ErrorKind::kUsage, "too small for the tokenizer",
               [] { tiny_config("x", {"backbone.shape.vocab_size=9"}).llama(10); });
}

TEST(RunConfig, ListsTheKeysThatChangeResults) {
  const RunConfig before = tiny_config("a");
  const RunConfig now = tiny_config(
      "b", {"train.lr=0.5", "train.log_every=7", "data.train.0.synthetic.seed=9", "eval.limit=3"});
  const std::vector<std::string> changes = changed_keys(before, now);
  ASSERT_EQ(changes.size(), 2u) << changes.front();
  EXPECT_NE(changes[0].find("data.train.0.synthetic.seed: 9, was 1"), std::string::npos) << changes[0];
  EXPECT_NE(changes[1].find("train.lr: 0.5"), std::string::npos) << changes[1];
  EXPECT_FALSE(changed_keys(before, tiny_config("a", {"train.steps=9"})).empty());
  EXPECT_TRUE(changed_keys(tiny_config("a", {"train.schedule=constant"}),
                           tiny_config("a", {"train.schedule=constant", "train.steps=9"}))
                  .empty());
}

TEST(RunConfig, ExplainsEveryKey) {
  EXPECT_NE(run_config_help("train.lr").find("peak learning rate"), std::string::npos);
  EXPECT_NE(run_config_help("").find("save_every"), std::string::npos);
  EXPECT_NE(run_config_help("compressor.ratio").find("truncate_head"), std::string::npos);
  EXPECT_NE(run_config_help("compressor").find("truncate_head"), std::string::npos);
  EXPECT_NE(run_config_help("compressor.truncate_head").find("ratio"), std::string::npos);
  expect_error(ErrorKind::kUsage, "no method has a key", [] { run_config_help("compressor.nonsense"); });
  expect_error(ErrorKind::kUsage, "train.lrr", [] { run_config_help("train.lrr"); });
}

}  // namespace
}  // namespace ctxc
