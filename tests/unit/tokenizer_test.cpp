// Token ids and texts of Python's tokenizers package (goldens.json, made by the script beside it), then what
// no golden shows: broken bytes, threads, fingerprints, damaged files.
#include "data/tokenizer.h"

#include <thread>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::TempDir;

Json goldens() {
  static const Json all =
      read_json_file((testing::root() / "tests/fixtures/tokenizer/goldens.json").string());
  return all;
}

Json golden(const std::string& name) {
  for (const Json& entry : goldens())
    if (entry["name"] == name) return entry;
  throw std::runtime_error("no golden " + name);
}

Tokenizer load(const Json& tokenizer, const Json& config = nullptr) {
  const TempDir folder;
  write_file_atomic((folder / "tokenizer.json").string(), tokenizer.dump());
  if (!config.is_null()) write_file_atomic((folder / "tokenizer_config.json").string(), config.dump());
  return Tokenizer::load(folder.str());
}

TEST(Tokenizer, EqualsThePythonPackage) {
  size_t checked = 0;
  for (const Json& entry : goldens()) {
    const Tokenizer tokenizer = load(entry["tokenizer"]);
    for (const Json& example : entry["cases"]) {
      const auto text = example["text"].get<std::string>();
      SCOPED_TRACE(entry["name"].get<std::string>() + ": " + example["text"].dump());
      const auto ids = example["ids"].get<Tokens>();
      EXPECT_EQ(tokenizer.encode(text), ids);
      EXPECT_EQ(tokenizer.encode(text), ids) << "the second time, from the cache";
      EXPECT_EQ(tokenizer.encode(text, true),
                example.contains("special") ? example["special"].get<Tokens>() : ids);
      EXPECT_EQ(tokenizer.decode(ids), example["decoded"].get<std::string>());
      const std::span<const TokenId> tail = std::span(ids).subspan(ids.size() / 2);
      EXPECT_EQ(tokenizer.decode(tail, false), example["tail"].get<std::string>());
      ++checked;
    }
  }
  EXPECT_GT(checked, 200u);
}

TEST(Tokenizer, ReplacesBrokenUtf8AsPythonDoes) {
  const Tokenizer tokenizer = load(golden("gpt2")["tokenizer"]);
  // bytes.decode(errors="replace") gives one U+FFFD for every maximal subpart.
  const std::vector<std::pair<std::string, int>> cases = {{"\xFF", 1},
                                                          {"\xC3", 1},
                                                          {"\xE2\x82", 1},
                                                          {"\xF0\x9F\x98", 1},
                                                          {"\x80\x80", 2},
                                                          {"\xC0\xAF", 2},
                                                          {"\xED\xA0\x80", 3},
                                                          {"\xE2\x28\xA1", 2},
                                                          {"\xF4\x90\x80\x80", 4},
                                                          {"\xF0\x80\x80\x80", 4}};
  for (const auto& [broken, count] : cases) {
    std::string repaired = "a";
    for (int i = 0; i < count; ++i) repaired += "\xEF\xBF\xBD";
    if (broken == "\xE2\x28\xA1") repaired = "a\xEF\xBF\xBD(\xEF\xBF\xBD";
    EXPECT_EQ(tokenizer.encode("a" + broken + " b"), tokenizer.encode(repaired + " b"));
  }
}

TEST(Tokenizer, KnowsItsTokens) {
  const Json file = golden("llama3")["tokenizer"];
  const Tokenizer tokenizer =
      load(file,
           {{"bos_token", "<|begin|>"}, {"eos_token", {{"content", "<|end|>"}}}, {"chat_template", "{{x}}"}});
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.eos(), 0);
  EXPECT_FALSE(tokenizer.pad());
  EXPECT_EQ(tokenizer.chat_template(), "{{x}}");
  EXPECT_EQ(tokenizer.vocab_size(), static_cast<int64_t>(file["model"]["vocab"].size()));
  const TokenId the = tokenizer.find("\xC4\xA0the").value();
  EXPECT_EQ(tokenizer.piece(the), " the");
  EXPECT_FALSE(tokenizer.find("no such token"));
  EXPECT_TRUE(tokenizer.is_special(0));
  EXPECT_FALSE(tokenizer.is_special(the));
  EXPECT_FALSE(tokenizer.contains(-1));
  EXPECT_FALSE(tokenizer.contains(static_cast<TokenId>(tokenizer.vocab_size())));
  expect_error(ErrorKind::kInput, "no token with the id 9999", [&] { tokenizer.decode(Tokens{9999}); });
}

TEST(Tokenizer, RolesComeFromTheModelsFilesLast) {
  const TempDir folder;
  write_file_atomic((folder / "tokenizer.json").string(), golden("gpt2")["tokenizer"].dump());
  write_file_atomic((folder / "special_tokens_map.json").string(), R"({"pad_token": "!"})");
  write_file_atomic((folder / "generation_config.json").string(),
                    R"({"bos_token_id": 2, "eos_token_id": [3, 4]})");
  write_file_atomic((folder / "config.json").string(), R"({"bos_token_id": 5, "eos_token_id": 5})");
  const Tokenizer tokenizer = Tokenizer::load((folder / "tokenizer.json").string());
  EXPECT_EQ(tokenizer.bos(), 2);
  EXPECT_EQ(tokenizer.eos(), 3);
  EXPECT_EQ(tokenizer.pad(), tokenizer.find("!"));
}

TEST(Tokenizer, FingerprintFollowsVocabularyMergesAndSpecials) {
  const Json file = golden("gpt2")["tokenizer"];
  Json spelled = file, fewer = file, plain = file;
  for (Json& merge : spelled["model"]["merges"]) {
    const auto text = merge.get<std::string>();
    merge = {text.substr(0, text.find(' ')), text.substr(text.find(' ') + 1)};
  }
  fewer["model"]["merges"].erase(fewer["model"]["merges"].size() - 1);
  plain["added_tokens"][0]["special"] = false;
  EXPECT_EQ(load(file).fingerprint(), load(spelled).fingerprint());
  EXPECT_NE(load(file).fingerprint(), load(fewer).fingerprint());
  EXPECT_NE(load(file).fingerprint(), load(plain).fingerprint());
}

TEST(Tokenizer, EncodesInSeveralThreads) {
  const Json entry = golden("llama3");
  const Tokenizer tokenizer = load(entry["tokenizer"]);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (size_t t = 0; t < wrong.size(); ++t)
    threads.emplace_back([&, t] {
      for (int round = 0; round < 50; ++round)
        for (const Json& example : entry["cases"])
          if (tokenizer.encode(example["text"].get_ref<const std::string&>()) != example["ids"].get<Tokens>())
            ++wrong[t];
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(Tokenizer, CacheForgetsAndGoesOn) {
  const Tokenizer tokenizer = load(golden("gpt2")["tokenizer"]);
  std::string text;
  for (int i = 0; i < 80'000; ++i)
    text += " w" + std::string(1, 'a' + i % 26) + std::string(1, 'a' + i / 26 % 26) +
            std::string(1, 'a' + i / 676 % 26) + std::string(1, 'a' + i / 17576 % 26);
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  const std::string run(300'000, 'x');  // one word that no cache holds and a quadratic merge would never end
  EXPECT_EQ(tokenizer.decode(tokenizer.encode(run + std::string(300'000, ' '))),
            run + std::string(300'000, ' '));
}

TEST(Tokenizer, RefusesWhatItCannotMean) {
  const Json file = golden("gpt2")["tokenizer"];
  const auto refuse = [&](const char* pointer, const Json& value, const std::string& message) {
    Json changed = file;
    changed[Json::json_pointer(pointer)] = value;
    expect_error(ErrorKind::kInput, message, [&] { load(changed); });
  };
  refuse("/model", nullptr, "without \"model\"");
  refuse("/model/type", "Unigram", "model type 'Unigram'");
  refuse("/model/byte_fallback", true, "byte_fallback");
  refuse("/model/dropout", 0.1, "dropout");
  refuse("/model/continuing_subword_prefix", "##", "continuing_subword_prefix");
  refuse("/model/unk_token", "<nowhere>", "lacks unk_token");
  refuse("/model/vocab", Json::array(), "vocab");
  refuse("/model/vocab/a", -1, "out of range");
  refuse("/model/vocab/a", "x", "out of range");
  refuse("/model/vocab/a", 40, "two tokens have the id 40");
  refuse("/model/merges", 3, "merges");
  refuse("/model/merges/0", "a b c", "merge 0 is broken");
  refuse("/model/merges/0", Json::array({"a", 1}), "merge 0 is broken");
  refuse("/model/merges/0", "a \xE6\x9D\xB1", "needs the token");
  refuse("/normalizer", {{"type", "Lowercase"}}, "normalizer 'Lowercase'");
  refuse("/pre_tokenizer", nullptr, "without ByteLevel");
  refuse("/pre_tokenizer", {{"type", "Metaspace"}}, "pre-tokenizer 'Metaspace'");
  refuse("/post_processor", {{"type", "BertProcessing"}}, "post-processor 'BertProcessing'");
  refuse("/decoder", nullptr, "decoder 'null'");
  refuse("/decoder", {{"type", "Metaspace"}}, "decoder 'Metaspace'");
  refuse("/added_tokens", 1, "added_tokens is not a list");
  refuse("/added_tokens/0/id", 7, "contradicts the vocabulary");
  Json fused = file;
  fused["model"]["unk_token"] = "!";
  fused["model"]["fuse_unk"] = true;
  expect_error(ErrorKind::kInput, "fuse_unk", [&] { load(fused); });
  expect_error(ErrorKind::kInput, "'<nowhere>' is not in", [&] { load(file, {{"bos_token", "<nowhere>"}}); });
}

TEST(Tokenizer, RefusesPatternsThatMeanSomethingElse) {
  const Json file = golden("gpt2")["tokenizer"];
  const auto refuse = [&](const std::string& pattern, const std::string& behavior,
                          const std::string& message) {
    Json changed = file;
    changed["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", behavior}, {"invert", false}},
          {{"type", "ByteLevel"}}}}};
    expect_error(ErrorKind::kInput, message, [&] { load(changed); });
  };
  refuse("\\h+", "Isolated", "the escape '\\h'");
  refuse("[\\W]", "Isolated", "inside [...]");
  refuse("[a&&b]", "Isolated", "'&' inside");
  refuse("(", "Isolated", "missing closing parenthesis");
  refuse("a\\", "Isolated", "ends in a backslash");
  refuse("", "Isolated", "an empty split pattern");
  refuse("a", "Sideways", "split behavior 'Sideways'");
  Json behind = file;
  behind["pre_tokenizer"] = {{"type", "Sequence"},
                             {"pretokenizers", {{{"type", "ByteLevel"}}, {{"type", "Digits"}}}}};
  expect_error(ErrorKind::kInput, "'Digits' behind ByteLevel", [&] { load(behind); });
}

TEST(Tokenizer, NamesWhatIsMissing) {
  const TempDir folder;
  expect_error(ErrorKind::kInput, "no such file or folder",
               [&] { Tokenizer::load((folder / "nowhere").string()); });
  expect_error(ErrorKind::kInput, "tokenizer.json: no such file", [&] { Tokenizer::load(folder.str()); });
  write_file_atomic((folder / "notes.txt").string(), "hello");
  expect_error(ErrorKind::kInput, "neither a GGUF file",
               [&] { Tokenizer::load((folder / "notes.txt").string()); });
}

}  // namespace
}  // namespace ctxc
