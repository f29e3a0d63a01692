// Against the outputs of the ComprExIT repository's own preprocessing
// (tests/fixtures/data/data_pipeline.json). Not compared: which blocks are repeated instead of continued,
// because the peer draws that with Python's generator; only their number is.
#include <cmath>

#include "data/corpus.h"
#include "data_helpers.h"

namespace ctxc {
namespace {

std::filesystem::path fixtures() {
  return testing::root() / "tests/fixtures/data";
}

class Pipeline : public ::testing::Test {
 protected:
  std::unique_ptr<DataSource> open(const std::string& text, const Prompt& prompt, const ExampleRules& rules,
                                   const std::string& format) {
    testing::write_text(dir_ / "data.jsonl", text);
    SourceConfig config;
    config.path = (dir_ / "data.jsonl").string();
    config.format = format;
    return open_source(config, "", rules, prompt);
  }
  /// The three passages of the fixture, as MRQA rows.
  std::string passages() const {
    std::string text;
    for (const Json& item : golden_.at("mrqa_format")) {
      const Json& in = item.at("in");
      text += Json{{"context", in.at("context")},
                   {"qas", {{{"qid", "q"}, {"question", in.at("question")}, {"answers", in.at("answers")}}}}}
                  .dump() +
              "\n";
    }
    return text;
  }
  Prompt prompt(const char* tokenizer, PromptConfig config = {}) const {
    return Prompt(config, Tokenizer::load((fixtures() / tokenizer).string()));
  }
  testing::TempDir dir_;
  Json golden_ = read_json_file((fixtures() / "data_pipeline.json").string());
};

Tokens ids_of(const Json& list) {
  return list.get<Tokens>();
}

Tokens joined(Tokens first, const Tokens& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

TEST_F(Pipeline, NextTokenBlocks) {
  const Json& ntp = golden_.at("ntp");
  ExampleRules rules;
  rules.context_tokens = ntp.at("context_length");
  rules.generation_tokens = ntp.at("generation_length");
  rules.drop_remainder = true;
  std::string text;
  for (const Json& document : ntp.at("documents")) text += Json{{"text", document}}.dump() + "\n";
  const auto source = open(text, prompt("tokenizer"), rules, "text");
  ASSERT_EQ(source->size(), static_cast<int64_t>(ntp.at("blocks").size()));
  for (int64_t i = 0; i < source->size(); ++i) {
    const Example example = source->example(i);
    EXPECT_EQ(joined(example.context, example.queries[0].target),
              ids_of(ntp.at("blocks").at(static_cast<size_t>(i))));
  }
  const Json& collated = ntp.at("collated_ntp");
  for (size_t row = 0; row < collated.at("labels").size(); ++row)
    EXPECT_EQ(source->example(static_cast<int64_t>(row)).queries[0].target,
              ids_of(collated.at("labels")[row]));
}

TEST_F(Pipeline, Reconstruction) {
  const Json& ntp = golden_.at("ntp");
  ExampleRules rules;
  rules.context_tokens = ntp.at("context_length");
  const Tokenizer tokenizer = Tokenizer::load((fixtures() / "tokenizer").string());
  const Json& cases = ntp.at("collated_reconstruction");
  rules.generation_tokens = static_cast<int64_t>(cases[0].at("labels")[0].size());
  const auto examples = reconstruction_examples(ids_of(ntp.at("blocks")[0]), rules, tokenizer);
  ASSERT_EQ(examples.size(), ntp.at("flags_ratio_0.5_of_12").at("num_segments").get<size_t>());
  ASSERT_EQ(cases.size(), examples.size());
  for (size_t i = 0; i < cases.size(); ++i) {
    const Query& query = examples[i].queries[0];
    EXPECT_EQ(joined(examples[i].context, joined(query.prompt, query.target)),
              ids_of(cases[i].at("input_ids")[0]));
    Tokens labels(query.prompt.size(), -100);
    EXPECT_EQ(joined(labels, query.target), ids_of(cases[i].at("labels")[0]));
  }
}

TEST_F(Pipeline, ReconstructionShare) {
  const Json& flags = golden_.at("ntp").at("flags_ratio_0.5_of_12");
  int64_t continued = 0;
  for (const Json& flag : flags.at("flags_train")) continued += flag.get<bool>();
  ExampleRules rules;
  rules.context_tokens = 24;
  rules.generation_tokens = 18;
  rules.reconstruction = 0.5;
  std::string text = R"({"text": ")";
  for (int i = 0; i < 12 * 42 - 1; ++i) text += '~';  // no merge makes one token of two
  const auto source = open(text + "\"}\n", prompt("tokenizer"), rules, "text");
  const int64_t blocks = 12, segments = flags.at("num_segments");
  EXPECT_EQ(continued, std::llround(flags.at("effective_ratio").get<double>() * 12));
  EXPECT_EQ(source->size(), continued + segments * (blocks - continued));
}

TEST_F(Pipeline, SupervisedExamples) {
  const Json& sft = golden_.at("sft");
  ExampleRules rules;
  rules.context_tokens = sft.at("context_length");
  rules.query_tokens = sft.at("generation_length");
  rules.truncate = "tail";
  rules.char_cut = true;
  rules.one_query_per_example = true;
  const TokenId pad = golden_.at("pad_id");
  const auto source = open(passages(), prompt("tokenizer_with_pad"), rules, "mrqa");
  ASSERT_EQ(source->size(), static_cast<int64_t>(sft.at("examples").size()));
  for (int64_t i = 0; i < source->size(); ++i) {
    const Json& expected = sft.at("examples").at(static_cast<size_t>(i));
    const Example example = source->example(i);
    const Query& query = example.queries[0];
    Tokens context = example.context, prompt_and_answer = joined(query.prompt, query.target);
    context.resize(static_cast<size_t>(rules.context_tokens), pad);
    Tokens labels = joined(Tokens(query.prompt.size(), -100), query.target);
    labels.resize(static_cast<size_t>(rules.query_tokens), -100);
    prompt_and_answer.resize(static_cast<size_t>(rules.query_tokens), pad);
    EXPECT_EQ(joined(context, prompt_and_answer), ids_of(expected.at("input_ids"))) << i;
    EXPECT_EQ(labels, ids_of(expected.at("labels"))) << i;
    int64_t real = 0;
    for (const Json& one : expected.at("attention_mask")) real += one.get<int64_t>();
    EXPECT_EQ(static_cast<int64_t>(example.context.size() + query.prompt.size() + query.target.size()), real)
        << i;
  }
}

TEST_F(Pipeline, AnswerLongerThanItsBudget) {
  const Json& expected = golden_.at("sft").at("answer_longer_than_budget");
  ExampleRules rules;
  rules.query_tokens = golden_.at("sft").at("generation_length");
  const Prompt peer = prompt("tokenizer_with_pad");
  std::string answer;
  for (int i = 0; i < 40; ++i) answer += "word ";
  const Json row = {{"context", "c"}, {"question", "q"}, {"answers", answer}};
  const Query query = open(row.dump() + "\n", peer, rules, "qa_jsonl")->example(0).queries[0];
  EXPECT_TRUE(query.prompt.empty());
  EXPECT_EQ(query.target, ids_of(expected.at("query_ids")));
  EXPECT_EQ(query.target, ids_of(expected.at("labels")));
}

TEST_F(Pipeline, EvaluationInputs) {
  const Json& eval = golden_.at("eval_inputs");
  PromptConfig config;
  config.context_bos = true;
  config.split_question = true;
  ExampleRules rules;
  rules.context_tokens = eval.at("max_context_length");
  rules.query_tokens = eval.at("max_question_length");
  rules.truncate = "tail";
  rules.evaluation = true;
  const auto source = open(passages(), prompt("tokenizer_with_pad", config), rules, "mrqa");
  ASSERT_EQ(source->size(), 3);
  for (int64_t i = 0; i < 3; ++i) {
    const Example example = source->example(i);
    const Json& ids = eval.at("input_ids").at(static_cast<size_t>(i));
    const Json& mask = eval.at("attention_mask").at(static_cast<size_t>(i));
    Tokens real;
    for (size_t k = 0; k < ids.size(); ++k)
      if (mask[k].get<int>()) real.push_back(ids[k].get<TokenId>());
    EXPECT_EQ(joined(example.context, example.queries[0].prompt), real) << i;
    EXPECT_TRUE(example.queries[0].target.empty());
  }
}

}  // namespace
}  // namespace ctxc
