// Decoding and scoring on the embedded base: likelihood of the answers, references that cut, BM25.
#include "eval/evaluator.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "data/synthetic.h"
#include "eval/bm25.h"
#include "eval/readers.h"
#include "model/hidden_cache.h"
#include "model/loss.h"
#include "model/objective.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

const std::string& base_path() {
  static const std::string path = (testing::root() / "models/tiny-facts").string();
  return path;
}

PromptConfig prompt_config() {
  PromptConfig config;
  config.cleanup = "none";
  config.answer_prompt = "";
  config.answer_prefix = " ";
  return config;
}

class Evaluator : public ::testing::Test {
 protected:
  Evaluator()
      : backbone_(Backbone::load(base_path())),
        prompt_(std::make_shared<const Prompt>(prompt_config(), Tokenizer::load(base_path()))) {
    SourceConfig source;
    source.path = "tiny-facts";
    source.format = "synthetic";
    source.name = "facts";
    source.synthetic.count = 6;
    source.synthetic.split = "valid";
    ExampleRules rules;
    rules.evaluation = true;
    source_ = open_source(source, "", rules, *prompt_);
    questions_ = select_questions(*source_, 8);
  }

  Reader reader(const std::string& method) const {
    ReferenceSetup setup{.backbone = backbone_,
                         .prompt = prompt_,
                         .slots_for = [](int64_t tokens) { return (tokens + 3) / 4; },
                         .shots = {}};
    return make_reference(plan_methods({method}, "")[0], setup);
  }
  SetResult run(const std::string& method, bool nll) const {
    EvalConfig config;
    config.nll = nll;
    config.max_new_tokens = 6;
    config.batch_tokens = 100;  // several batches
    return evaluate(reader(method), *source_, questions_, config);
  }

  std::shared_ptr<Backbone> backbone_;
  std::shared_ptr<const Prompt> prompt_;
  std::shared_ptr<DataSource> source_;
  std::vector<QuestionRef> questions_;
};

TEST_F(Evaluator, LikelihoodIsTheCrossEntropyOfTheAnswer) {
  const SetResult found = run("full", true), unasked = run("full", false);
  for (size_t i = 0; i < questions_.size(); ++i) {
    Example example = source_->example(questions_[i].example);
    Query query = example.queries[static_cast<size_t>(questions_[i].query)];
    query.target = prompt_->answer_ids(query.answers.front());
    example.queries = {query};
    Batch batch;
    batch.examples = {example};
    Context context(*backbone_, batch);
    const Reader full = reader("full");
    const Memory memory = full.compressor->compress(context, {.training = false}).memory;
    BatchReading reading(*backbone_, memory, batch);
    const at::NoGradGuard no_grad;
    const Tensor expected =
        chunked_cross_entropy(reading.hidden_MD(), backbone_->head_VD(), reading.target_M("test"));
    EXPECT_NEAR(found.records[i].score.nll, expected.item<double>(), 1e-4) << i;
    EXPECT_EQ(found.records[i].prediction, unasked.records[i].prediction);
    EXPECT_EQ(unasked.records[i].score.nll, 0);
  }
  const double none = summarize_scores(run("none", true).scores()).nll;
  EXPECT_GT(none, summarize_scores(found.scores()).nll + 1);
}

TEST_F(Evaluator, LikelihoodAloneDecodesNothing) {
  EvalConfig config;
  config.nll = true;
  config.answers = false;
  config.batch_tokens = 100;
  const SetResult both = run("full", true), alone = evaluate(reader("full"), *source_, questions_, config);
  EXPECT_FALSE(alone.answered());
  EXPECT_EQ(alone.new_tokens, 0);
  EXPECT_EQ(alone.seconds.decode, 0);
  for (size_t i = 0; i < questions_.size(); ++i) {
    EXPECT_NEAR(alone.records[i].score.nll, both.records[i].score.nll, 1e-5);
    EXPECT_EQ(alone.records[i].qid, both.records[i].qid);
    EXPECT_EQ(alone.records[i].vectors, both.records[i].vectors);
    EXPECT_EQ(alone.records[i].prediction, "");
  }
}

TEST_F(Evaluator, TheBaseReadsACachedContextOnce) {
  const testing::TempDir dir;
  CompressorSetup setup;
  setup.backbone = backbone_->config();
  Reader mean = reader("full");
  mean.compressor = make_compressor(Yaml::parse("{name: mean_pool, ratio: 4}", "test"), setup);
  EvalConfig config;
  config.nll = true;
  config.answers = false;
  config.batch_tokens = 100;
  const SetResult plain = evaluate(mean, *source_, questions_, config);
  HiddenCache cache(dir.str(), *backbone_, uint64_t{1} << 30);
  mean.hidden_cache = &cache;
  const SetResult first = evaluate(mean, *source_, questions_, config);
  EXPECT_EQ(cache.hits(), 0);
  EXPECT_EQ(cache.misses(), first.contexts);
  const SetResult again = evaluate(mean, *source_, questions_, config);
  EXPECT_EQ(cache.hits(), first.contexts);
  for (size_t i = 0; i < questions_.size(); ++i) {
    EXPECT_EQ(again.records[i].score.nll, first.records[i].score.nll);
    EXPECT_NEAR(first.records[i].score.nll, plain.records[i].score.nll, 0.05) << "states rounded to bfloat16";
  }
}

/// Blocks of 24 tokens to read and 8 that follow, cut from passages of the base's own kind.
std::shared_ptr<DataSource> open_text_blocks(const Prompt& prompt, const std::string& path) {
  std::ofstream file(path);
  SyntheticConfig passages;
  for (int64_t i = 0; i < 6; ++i) file << synthetic_passage(passages, i).context << "\n";
  file.close();
  SourceConfig config;
  config.path = path;
  config.format = "text";
  ExampleRules rules;
  rules.evaluation = true;
  rules.context_tokens = 24;
  rules.generation_tokens = 8;
  rules.reconstruction = 1;  // a matter of training: an evaluation continues every block
  return open_source(config, "", rules, prompt);
}

TEST_F(Evaluator, PlainTextIsMeasuredByWhatFollowsIt) {
  const testing::TempDir dir;
  const auto text = open_text_blocks(*prompt_, (dir / "text.txt").string());
  const std::vector<QuestionRef> blocks = select_questions(*text, 5);
  ASSERT_EQ(blocks.size(), 5u);
  EvalConfig config;
  config.batch_tokens = 60;  // several batches
  const auto measured = [&](const char* method) { return evaluate(reader(method), *text, blocks, config); };
  const SetResult full = measured("full");
  EXPECT_TRUE(full.continued);
  EXPECT_EQ(full.contexts, 5);
  EXPECT_EQ(full.new_tokens, 0);
  // The same tokens as one text behind no memory at all.
  const Reader none = reader("none");
  for (size_t i = 0; i < blocks.size(); ++i) {
    const Example block = text->example(blocks[i].example);
    Batch batch;
    batch.examples.resize(1);
    batch.examples[0].queries = {{block.context, block.queries[0].target, "", "", {}}};
    const at::NoGradGuard no_grad;
    Context context(*backbone_, batch);
    const Memory memory = none.compressor->compress(context, {.training = false}).memory;
    BatchReading reading(*backbone_, memory, batch);
    const Tensor expected =
        chunked_cross_entropy(reading.hidden_MD(), backbone_->head_VD(), reading.target_M("test"));
    EXPECT_NEAR(full.records[i].score.nll, expected.item<double>(), 1e-4) << i;
    EXPECT_EQ(full.records[i].prediction, "");
  }
  const SetResult cut = measured("truncate_tail");
  EXPECT_EQ(cut.vectors, 6);
  EXPECT_NE(cut.records[0].score.nll, full.records[0].score.nll);
}

TEST_F(Evaluator, Bm25ReadsWhatItsQuestionNeeds) {
  const SetResult found = run("bm25", true), head = run("truncate_head", true);
  EXPECT_EQ(found.contexts, head.contexts);  // though every question has its own memory
  EXPECT_EQ(found.context_tokens, head.context_tokens);
  for (size_t i = 0; i < questions_.size(); ++i) {
    EXPECT_EQ(found.records[i].qid, head.records[i].qid);
    EXPECT_LE(found.records[i].vectors, head.records[i].vectors);
  }
  EXPECT_LT(summarize_scores(found.scores()).nll, summarize_scores(head.scores()).nll);
}

TEST_F(Evaluator, ForeignQuestionsAreReadBehindTheNextPassage) {
  const std::vector<QuestionRef> questions = select_questions(*source_, 0);
  std::vector<int64_t> passages;
  for (const QuestionRef& question : questions)
    if (passages.empty() || passages.back() != question.example) passages.push_back(question.example);
  ASSERT_EQ(passages.size(), 6u);
  std::map<Tokens, Tokens> next;
  for (size_t i = 0; i < passages.size(); ++i)
    next[source_->example(passages[i]).context] =
        source_->example(passages[(i + 1) % passages.size()]).context;
  Reader other = reader("full"), foreign = reader("full");
  other.cut = [&](const Tokens& context, const Query&) { return next.at(context); };
  foreign.foreign = true;
  EvalConfig config;
  config.nll = true;
  config.max_new_tokens = 6;
  config.batch_tokens = 100;  // several batches
  const SetResult expected = evaluate(other, *source_, questions, config),
                  found = evaluate(foreign, *source_, questions, config);
  for (size_t i = 0; i < questions.size(); ++i) {
    EXPECT_EQ(found.records[i].qid, expected.records[i].qid);
    EXPECT_EQ(found.records[i].context, expected.records[i].context);  // clusters by what is asked
    EXPECT_EQ(found.records[i].vectors, expected.records[i].vectors);
    EXPECT_NEAR(found.records[i].score.nll, expected.records[i].score.nll, 1e-4);
    EXPECT_EQ(found.records[i].prediction, expected.records[i].prediction);
  }
  const SetResult own = evaluate(reader("full"), *source_, questions, config);
  EXPECT_GT(summarize_scores(found.scores()).nll, summarize_scores(own.scores()).nll + 1);
  const std::vector<QuestionRef> one = {questions[0]};
  testing::expect_error(ErrorKind::kInput, "need a second passage",
                        [&] { evaluate(foreign, *source_, one, config); });
}

TEST(Bm25, KeepsTheBestSentencesInReadingOrder) {
  const Tokenizer tokenizer = Tokenizer::load(base_path());
  const std::string first = "Anna lives in Oslo.", second = " The market sells soup.",
                    third = " Boris likes honey.";
  const Tokens context = tokenizer.encode(first + second + third);
  const auto tokens = [&](const std::string& text) {
    return static_cast<int64_t>(tokenizer.encode(text).size());
  };
  const auto best = [&](const std::string& question, int64_t budget) {
    return tokenizer.decode(best_sentences(tokenizer, context, question, budget));
  };
  ASSERT_EQ(context.size(), tokens(first) + tokens(second) + tokens(third));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(best("What does BORIS like?", tokens(third)))), third);
  EXPECT_EQ(best("What does Boris like?", tokens(third) + tokens(first)),
            first + third);  // ties: the earlier
  EXPECT_EQ(best("soup?", tokens(second) + 2),
            tokenizer.decode(std::span(context).first(2)) + second);  // the last one is cut
  EXPECT_EQ(best("soup?", 0), "");
  EXPECT_EQ(best("soup?", 1000), first + second + third);
  EXPECT_TRUE(best_sentences(tokenizer, {}, "soup?", 5).empty());
}

}  // namespace
}  // namespace ctxc
