// The tokenizer and the prompt against ../shared/fixtures, which the peer's own code made.
#include "core/json.h"
#include "data/prompt.h"
#include "testing.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

Json pipeline() {
  return read_json_file((testing::shared() / "fixtures/comprexit/data_pipeline.json").string());
}

Prompt peer_prompt(PromptConfig config = {}) {
  return {std::move(config), Tokenizer::load((testing::shared() / "fixtures/comprexit/ckpt_sft").string())};
}

TEST(TokenizerShared, SmolLm2FromGguf) {
  CTXC_NEEDS_SHARED();
  const fs::path folder = testing::root() / ".deps/models";
  fs::path gguf;
  if (fs::exists(folder))
    for (const auto& entry : fs::directory_iterator(folder))
      if (entry.path().extension() == ".gguf") gguf = entry.path();
  if (gguf.empty()) GTEST_SKIP() << "no GGUF in .deps/models: scripts/setup.sh puts it there";
  const Tokenizer tokenizer = Tokenizer::load(gguf.string());
  EXPECT_EQ(tokenizer.vocab_size(), 49152);
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.eos(), 2);
  EXPECT_EQ(tokenizer.pad(), 2);
  EXPECT_NE(tokenizer.chat_template().find("<|im_start|>"), std::string::npos);
  const Json cases = read_json_file((testing::shared() / "fixtures/smollm2/tokens.json").string());
  for (const Json& entry : cases)
    EXPECT_EQ(tokenizer.encode(entry["text"].get<std::string>()), entry["ids"].get<Tokens>())
        << entry["text"];
  EXPECT_GE(cases.size(), 60u);
}

TEST(TokenizerShared, PeersCases) {
  CTXC_NEEDS_SHARED();
  const Tokenizer tokenizer = Tokenizer::load((testing::shared() / "fixtures/comprexit/base").string());
  const Json cases = pipeline()["tokenizer"];
  for (const Json& entry : cases) {
    const auto text = entry["text"].get<std::string>();
    EXPECT_EQ(tokenizer.encode(text, true), entry["ids"].get<Tokens>()) << text;
    EXPECT_EQ(tokenizer.encode(text), entry["ids_no_special"].get<Tokens>()) << text;
  }
  EXPECT_GE(cases.size(), 9u);
}

TEST(PromptShared, MrqaFormat) {
  CTXC_NEEDS_SHARED();
  const Prompt prompt = peer_prompt();
  const Json cases = pipeline()["mrqa_format"];
  for (const Json& entry : cases) {
    const Json &in = entry["in"], &out = entry["out"];
    EXPECT_EQ(prompt.clean_context(in["context"].get<std::string>()), out["context"].get<std::string>());
    EXPECT_EQ(prompt.clean_question(in["question"].get<std::string>()), out["question"].get<std::string>());
    for (size_t i = 0; i < in["answers"].size(); ++i)
      EXPECT_EQ(prompt.clean_answer(in["answers"][i].get<std::string>()), out["gold"][i].get<std::string>());
  }
  EXPECT_GE(cases.size(), 3u);
}

TEST(PromptShared, ExtractAnswer) {
  CTXC_NEEDS_SHARED();
  PromptConfig config;
  config.answer_extractor = "first_sentence_dot";
  const Prompt prompt = peer_prompt(config);
  const Json cases = pipeline()["extract_answer"];
  for (const Json& entry : cases)
    EXPECT_EQ(prompt.extract_answer(prompt.tokenizer().encode(entry["in"].get<std::string>())),
              entry["out"].get<std::string>());
  EXPECT_GE(cases.size(), 5u);
}

// Rows are [context, question, instruction], each padded by itself.
TEST(PromptShared, EvaluationInputs) {
  CTXC_NEEDS_SHARED();
  PromptConfig config;
  config.split_question = true;
  config.context_bos = true;
  const Prompt prompt = peer_prompt(config);
  const Json all = pipeline();
  const Json &inputs = all["eval_inputs"], &records = all["mrqa_format"];
  const auto width = inputs["max_context_length"].get<size_t>();
  const auto asked = inputs["max_question_length"].get<int64_t>();
  for (size_t row = 0; row < inputs["input_ids"].size(); ++row) {
    const auto ids = inputs["input_ids"][row].get<Tokens>();
    const auto mask = inputs["attention_mask"][row].get<std::vector<int>>();
    Tokens query;
    for (size_t i = width; i < ids.size(); ++i)
      if (mask[i]) query.push_back(ids[i]);
    EXPECT_EQ(prompt.query_ids(records[row]["in"]["question"].get<std::string>(), asked), query);
    EXPECT_EQ(prompt.context_ids(records[row]["in"]["context"].get<std::string>()).front(), ids.front());
  }
  EXPECT_EQ(inputs["input_ids"].size(), records.size());
}

}  // namespace
}  // namespace ctxc
