// Template strings, MRQA's clean-up and answer extraction; the rules are comprexit.md sections 7, 9 and 10.
#include "data/prompt.h"

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "data/cleanup.h"
#include "data/prompt_record.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::TempDir;

Tokenizer tiny_facts() {
  return Tokenizer::load((testing::root() / "models/tiny-facts").string());
}

Prompt prompt(PromptConfig config = {}) {
  return {std::move(config), tiny_facts()};
}

Tokens ids(const std::string& text) {
  return tiny_facts().encode(text);
}

Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

TEST(Cleanup, ContextMarkersBecomeLayout) {
  EXPECT_EQ(
      clean_mrqa_context(" [TLE] Rivers [SEP] It flows . [PAR] <P> Long . </P> <Li> Aln </Li> [DOC] end "),
      "Title: Rivers \nPassage: It flows . \n\n Long .   Aln   end");
  EXPECT_EQ(
      clean_mrqa_context(
          "[DOC] <Table> <Tr> a </Tr> <Ul> b </Ul> <Dd> c </Dd> <Ol> d </Ol> <OI> e </OI> <UI> f </UI>"),
      "<Table> <Tr> a </Tr>  b   c   d   e   f");
  EXPECT_EQ(clean_mrqa_context("[PAR]x"), "[PAR]x") << "the marker counts with the space behind it only";
  EXPECT_EQ(clean_mrqa_context("\xE3\x80\x80\x1C a \xC2\x85"), "a")
      << "white space as Python's str.strip() has it";
}

TEST(Cleanup, TokenisationSpacesAreUndoneInOrder) {
  EXPECT_EQ(detokenize_mrqa("a . b ? c ! d , e : f"), "a. b? c! d, e: f");
  EXPECT_EQ(detokenize_mrqa("do n't I 'm it 's we 've you 're"), "don't I'm it's we've you're");
  EXPECT_EQ(detokenize_mrqa("( x ) 5 % `` q '' o ' clock"), "(x) 5% \"q\" o'clock");
  EXPECT_EQ(detokenize_mrqa(" ' s"), "'s") << "the lone apostrophe goes first";
  EXPECT_EQ(clean_mrqa_question(" how long is it ? "), "how long is it?");
  EXPECT_EQ(clean_mrqa_question("who rebuilt it"), "who rebuilt it?");
  EXPECT_EQ(clean_mrqa_question(""), "?");
}

TEST(Cleanup, AnswersAreCut) {
  EXPECT_EQ(extract_first_line(" \n U.S. Navy \nQuestion: next"), "U.S. Navy");
  EXPECT_EQ(extract_first_line("\n\n"), "");
  EXPECT_EQ(extract_first_sentence_dot(" U.S. Navy"), "U");
  EXPECT_EQ(extract_first_sentence_dot("85 km\nQuestion. x"), "85 km");
}

TEST(Prompt, TemplateIsByteExact) {
  const Prompt plain = prompt();
  EXPECT_EQ(plain.query_ids("Where does Anna live"),
            ids("Question: Where does Anna live?Answer the question directly with a short span only, no "
                "explanation. Answer:"));
  EXPECT_EQ(plain.answer_ids("Rome ."), ids("Rome.") + Tokens{plain.eos()});
  EXPECT_EQ(plain.context_ids("[TLE] Anna lives in Rome."), ids("Title: Anna lives in Rome."));
  EXPECT_EQ(plain.head_ids(), Tokens{*plain.tokenizer().bos()});
  EXPECT_EQ(plain.pad(), plain.tokenizer().find("<pad>"));
}

TEST(Prompt, OptionsChangeWhatTheySay) {
  PromptConfig config;
  config.cleanup = "none";
  config.question_prefix = "Q:";
  config.answer_prompt = " A:";
  config.answer_prefix = " ";
  config.context_bos = true;
  config.head = "none";
  const Prompt bare = prompt(config);
  EXPECT_EQ(bare.query_ids("x ."), ids("Q:x . A:"));
  EXPECT_EQ(bare.answer_ids("Rome ."), ids(" Rome .") + Tokens{bare.eos()});
  EXPECT_EQ(bare.context_ids("[TLE] x"), Tokens{*bare.tokenizer().bos()} + ids("[TLE] x"));
  EXPECT_EQ(bare.head_ids(), Tokens{});
  const Tokens five = {*bare.tokenizer().bos(), 5, 6, 7, 8};
  EXPECT_EQ(bare.context_tail(five, 3), (Tokens{five[0], 7, 8}));
  EXPECT_EQ(bare.context_tail(five, 5), five);
  EXPECT_EQ(prompt().context_tail(five, 3), (Tokens{6, 7, 8})) << "without BOS in the context";
}

TEST(Prompt, SplitQuestionsAreTokenisedApart) {
  PromptConfig config;
  config.split_question = true;
  const Prompt split = prompt(config);
  const Tokens question = ids("Question: Where does Anna live?"), answer = ids(config.answer_prompt);
  EXPECT_EQ(split.query_ids("Where does Anna live"), question + answer);
  EXPECT_EQ(split.query_ids("Where does Anna live", 3),
            Tokens(question.begin(), question.begin() + 3) + answer);
  EXPECT_EQ(split.query_ids("Where does Anna live", 64), question + answer);
}

TEST(Prompt, FewShotExamplesHaveTheLayoutOfTheRealOne) {
  PromptConfig config;
  config.answer_prefix = " ";
  config.context_bos = true;
  const Prompt shots = prompt(config);
  const std::vector<SolvedExample> examples = {{"Anna lives in Rome.", "Where does Anna live?", "Rome"},
                                               {"Boris plays chess.", "What does Boris play?", "chess"}};
  const auto shown = [&](const SolvedExample& example) {
    return ids(example.context) + shots.query_ids(example.question) + ids(" " + example.answer + "\n\n");
  };
  EXPECT_EQ(shots.few_shot_prefix(examples), shown(examples[0]) + shown(examples[1]));
  Tokens cut = ids(examples[0].context);
  cut.resize(2);
  EXPECT_EQ(shots.few_shot_prefix(std::span(examples).first(1), 2),
            cut + shots.query_ids(examples[0].question) + ids(" Rome\n\n"));
  EXPECT_EQ(shots.few_shot_prefix({}), Tokens{});
}

TEST(Prompt, ExtractsTheAnswerUpToEos) {
  const Prompt first_line = prompt();
  const Tokens rome = ids(" Rome. x\nBoris"), stop{first_line.eos()};
  EXPECT_EQ(first_line.extract_answer(rome), "Rome. x");
  EXPECT_EQ(first_line.extract_answer(ids(" Rome") + stop + ids(" Oslo")), "Rome");
  EXPECT_EQ(first_line.extract_answer(Tokens{5'000} + ids(" Rome")), "Rome") << "a row that is no token";
  PromptConfig config;
  config.answer_extractor = "first_sentence_dot";
  EXPECT_EQ(prompt(config).extract_answer(rome), "Rome");
}

TEST(Prompt, NeedsTheTokensItPlaces) {
  const TempDir folder;
  const auto root = testing::root() / "models/tiny-facts/tokenizer.json";
  write_file_atomic((folder / "tokenizer.json").string(), read_file(root.string()));
  const auto load = [&] { return Tokenizer::load(folder.str()); };
  expect_error(ErrorKind::kInput, "no end-of-text token", [&] { Prompt({}, load()); });
  write_file_atomic((folder / "tokenizer_config.json").string(), R"({"eos_token": "<|endoftext|>"})");
  expect_error(ErrorKind::kInput, "no begin-of-text token", [&] { Prompt({}, load()); });
  PromptConfig config;
  config.head = "none";
  EXPECT_EQ(Prompt(config, load()).pad(), 0) << "EOS pads where nothing else does";
}

/// The embedded base's tokenizer with these special tokens behind its own.
Tokenizer with_specials(const TempDir& folder, const std::vector<std::string>& tokens) {
  const auto root = testing::root() / "models/tiny-facts";
  Json file = read_json_file((root / "tokenizer.json").string());
  int64_t id = tiny_facts().vocab_size();
  for (const std::string& token : tokens)
    file["added_tokens"].push_back({{"id", id++}, {"content", token}, {"special", true}});
  write_file_atomic((folder / "tokenizer.json").string(), file.dump());
  write_file_atomic((folder / "tokenizer_config.json").string(),
                    read_file((root / "tokenizer_config.json").string()));
  return Tokenizer::load(folder.str());
}

TEST(Prompt, ChatHeadOpensATurnThatEveryQueryCloses) {
  const TempDir folder;
  const Tokenizer chatml = with_specials(folder, {"<|im_start|>", "<|im_end|>"});
  PromptConfig config;
  config.cleanup = "none";
  config.head = "auto";
  config.question_prefix = "\n\n";
  config.answer_prompt = "";
  const Prompt chat(config, chatml);
  EXPECT_EQ(chat.head(), "chat");
  EXPECT_EQ(prompt_record(chat).at("turn_close"), "<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(chat.head_ids(), chatml.encode("<|im_start|>user\n"));
  EXPECT_EQ(chat.query_ids("Who?"), chatml.encode("\n\nWho?<|im_end|>\n<|im_start|>assistant\n"));
  const Tokens quoted = {5, 7};
  EXPECT_EQ(chat.query_ids("After:", quoted),
            chatml.encode("\n\nAfter:") + quoted + chatml.encode("<|im_end|>\n<|im_start|>assistant\n"));
  const TempDir other;
  const Prompt llama(config, with_specials(other, {"<|begin_of_text|>", "<|start_header_id|>",
                                                   "<|end_header_id|>", "<|eot_id|>"}));
  EXPECT_EQ(llama.head_ids().front(), *llama.tokenizer().find("<|begin_of_text|>"));
  EXPECT_EQ(llama.query_ids("Who?").back(), llama.tokenizer().encode("\n\n").back());
  // Without a chat format auto is BOS, and chat is an error.
  EXPECT_EQ(prompt(config).head(), "bos");
  config.head = "chat";
  expect_error(ErrorKind::kInput, "no chat format", [&] { prompt(config); });
}

TEST(PromptConfig, RefusesUnknownChoices) {
  const auto read = [](const std::string& text) {
    PromptConfig config;
    read_config(Yaml::parse(text, "test.yaml"), config, "prompt");
    return config;
  };
  EXPECT_EQ(read("answer_prefix: ' '").answer_prefix, " ");
  expect_error(ErrorKind::kUsage, "prompt.cleanup", [&] { read("cleanup: squad"); });
  expect_error(ErrorKind::kUsage, "prompt.head", [&] { read("head: eos"); });
  expect_error(ErrorKind::kUsage, "prompt.shots", [&] { read("shots: -1"); });
}

}  // namespace
}  // namespace ctxc
