// Files of every format become the examples one expects; broken ones become errors with file and line.
#include "data/source.h"

#include "data_helpers.h"

namespace ctxc {
namespace {

using testing::error_of;
using testing::kEos;
using testing::text_of;

constexpr const char* kMrqa =
    "{\"header\": {\"dataset\": \"x\", \"split\": \"dev\"}}\n"
    "{\"id\": \"a\", \"context\": \"Anna lives in Rome.\", \"extra\": 1, \"qas\": ["
    "{\"qid\": \"q1\", \"question\": \"Where?\", \"answers\": [\"Rome\", \"in Rome\"], \"is_impossible\": "
    "false},"
    "{\"qid\": \"q2\", \"question\": \"Who?\", \"answers\": [\"Anna\"]}]}\n"
    "\n"
    "{\"context\": \"Bo owns a dog.\", \"qas\": [{\"qid\": \"q3\", \"question\": \"What?\", \"answers\": "
    "[\"dog\"]}]}\n";

class Source : public ::testing::Test {
 protected:
  std::unique_ptr<DataSource> open(const std::string& path, SourceConfig config = {}) {
    config.path = path;
    return open_source(config, dir_.str(), rules_, prompt_);
  }
  std::unique_ptr<DataSource> open_text(const std::string& name, const std::string& text,
                                        SourceConfig config = {}) {
    testing::write_text(dir_ / name, text);
    return open(name, config);
  }
  testing::TempDir tokenizer_dir_, dir_;
  Prompt prompt_ = testing::plain_prompt(tokenizer_dir_);
  ExampleRules rules_;
};

TEST_F(Source, Mrqa) {
  const auto source = open_text("SQuAD.dev.jsonl", kMrqa);
  ASSERT_EQ(source->size(), 2);
  EXPECT_EQ(source->name(), "SQuAD");
  const Example first = source->example(0);
  EXPECT_EQ(first.id, "a");
  EXPECT_EQ(text_of(first.context), "Anna lives in Rome.");
  EXPECT_EQ(first.source_tokens, 19);
  ASSERT_EQ(first.queries.size(), 2u);
  EXPECT_EQ(text_of(first.queries[0].prompt), "Where?");
  EXPECT_EQ(text_of(first.queries[0].target), "Rome<257>");
  EXPECT_EQ(first.queries[0].id, "q1");
  EXPECT_EQ(first.queries[0].answers, (std::vector<std::string>{"Rome", "in Rome"}));
  EXPECT_EQ(first.queries[1].question, "Who?");
  EXPECT_EQ(text_of(source->example(1).queries[0].target), "dog<257>");
  EXPECT_EQ(source->length(1), 14);
  EXPECT_EQ(source->stats().contexts, 2);
  EXPECT_EQ(source->stats().queries, 3);
  EXPECT_EQ(source->stats().context_tokens, 33);
  EXPECT_EQ(source->stats().truncated, 0);
}

TEST_F(Source, FirstLineWithoutHeaderIsData) {
  const std::string text = kMrqa;
  EXPECT_EQ(open_text("a.jsonl", text.substr(text.find('\n') + 1))->size(), 2);
  // Only the first line may be a header.
  const auto error = error_of([&] { open_text("b.jsonl", text + "{\"header\": {}}\n"); });
  EXPECT_NE(std::string(error.what()).find("b.jsonl:5"), std::string::npos) << error.what();
}

TEST_F(Source, GzipFoldersAndGlobs) {
  testing::write_gzip(dir_ / "shard-10.jsonl.gz", kMrqa);
  const std::string text = kMrqa;
  testing::write_text(dir_ / "shard-2.jsonl", text.substr(text.rfind('{', text.rfind("Bo owns"))));
  testing::write_text(dir_ / "README.rst", "not data");
  for (const std::string& path : {dir_.str(), std::string("shard-*"), std::string(".")}) {
    const auto source = open(path);
    ASSERT_EQ(source->size(), 3) << path;
    EXPECT_EQ(text_of(source->example(0).context), "Bo owns a dog.") << path;  // shard 2 before shard 10
  }
  EXPECT_EQ(error_of([&] { open("none-*.jsonl"); }).kind(), ErrorKind::kInput);
  EXPECT_EQ(error_of([&] { open("none.jsonl"); }).kind(), ErrorKind::kInput);
  const testing::TempDir empty;
  EXPECT_EQ(error_of([&] { open(empty.str()); }).kind(), ErrorKind::kInput);
}

TEST_F(Source, Squad) {
  const std::string squad =
      "{\n\"version\": \"v2.0\",\n\"data\": [{\"title\": \"t\", \"paragraphs\": [{\"context\": \"Anna lives "
      "in Rome.\","
      "\"qas\": [{\"id\": \"1\", \"question\": \"Where?\", \"answers\": [{\"text\": \"Rome\", "
      "\"answer_start\": 14}]},"
      "{\"id\": \"2\", \"question\": \"Why?\", \"is_impossible\": true, \"answers\": []}]}]}]}";
  const auto source = open_text("dev.json", squad);
  ASSERT_EQ(source->size(), 1);
  ASSERT_EQ(source->example(0).queries.size(), 1u);  // unanswerable questions are not trained on
  EXPECT_EQ(source->stats().dropped, 1);
  rules_.evaluation = true;
  EXPECT_EQ(open("dev.json")->example(0).queries.size(), 2u);
  testing::write_gzip(dir_ / "dev2.json.gz", squad);
  EXPECT_EQ(open("dev2.json.gz")->size(), 1);
}

TEST_F(Source, QaRowsShareTheirContext) {
  const char* rows =
      "{\"context\": \"c1\", \"question\": \"a\", \"answers\": \"x\"}\n"
      "{\"context\": \"c1\", \"question\": \"b\", \"answers\": {\"text\": [\"y\", \"z\"], \"answer_start\": "
      "[1, 2]}}\n"
      "{\"context\": \"c2\", \"question\": \"c\", \"answers\": [\"w\"], \"id\": 5}\n";
  const auto source = open_text("rows.jsonl", rows);
  ASSERT_EQ(source->size(), 2);
  EXPECT_EQ(source->example(0).queries.size(), 2u);
  EXPECT_EQ(source->example(0).queries[1].answers, (std::vector<std::string>{"y", "z"}));
  EXPECT_EQ(source->example(1).queries[0].id, "5");
  SourceConfig config;
  config.context_column = "passage";
  config.question_column = "q";
  config.answers_column = "a";
  EXPECT_EQ(open_text("other.jsonl", "{\"passage\": \"c1\", \"q\": \"a\", \"a\": \"x\"}\n", config)->size(),
            1);
}

TEST_F(Source, OneQueryPerExampleAndMaxSamples) {
  rules_.one_query_per_example = true;
  const auto source = open_text("a.jsonl", kMrqa);
  ASSERT_EQ(source->size(), 3);
  EXPECT_EQ(source->example(1).queries.size(), 1u);
  EXPECT_EQ(source->example(1).queries[0].id, "q2");
  EXPECT_EQ(text_of(source->example(1).context), "Anna lives in Rome.");
  EXPECT_EQ(source->length(2), 14);
  SourceConfig config;
  config.max_samples = 1;
  EXPECT_EQ(open("a.jsonl", config)->size(), 2);
}

TEST_F(Source, SkipAndMaxSamplesSplitAFileWithoutOverlap) {
  const std::string broken_start = R"({"context": "c0", "question": "no answer", "answers": []})"
                                   "\n";
  std::string rows = broken_start;
  for (int i = 1; i <= 5; ++i)
    rows += fmt::format(R"({{"context": "c{0}", "question": "q", "answers": ["x"], "id": "{0}"}})"
                        "\n",
                        i);
  SourceConfig first, rest;
  first.max_samples = rest.skip_samples = 2;
  const auto head = open_text("split.jsonl", rows, first), tail = open("split.jsonl", rest);
  ASSERT_EQ(head->size(), 2);
  ASSERT_EQ(tail->size(), 3);
  EXPECT_EQ(text_of(head->example(1).context), "c2");
  EXPECT_EQ(text_of(tail->example(0).context), "c3");
  EXPECT_EQ(tail->stats().contexts, 3);
  EXPECT_NE(head->fingerprint(), tail->fingerprint());
}

TEST_F(Source, TruncationKeepsOneEndAndCountsWhatIsLost) {
  rules_.context_tokens = 8;
  auto source = open_text("a.jsonl", kMrqa);
  EXPECT_EQ(text_of(source->example(0).context), "Anna liv");
  EXPECT_EQ(source->example(0).source_tokens, 19);
  EXPECT_EQ(source->stats().truncated, 2);
  EXPECT_EQ(source->stats().answers_lost, 2);  // Rome and dog; Anna is left
  rules_.truncate = "tail";
  source = open("a.jsonl");
  EXPECT_EQ(text_of(source->example(0).context), "in Rome.");
  EXPECT_EQ(source->stats().answers_lost, 1);  // Anna
  rules_.answer_in_window = true;
  source = open("a.jsonl");
  EXPECT_EQ(source->example(0).queries.size(), 1u);
  EXPECT_EQ(source->stats().dropped, 1);
}

TEST_F(Source, BosStaysInFrontOfATruncatedTail) {
  PromptConfig config = prompt_.config();
  config.context_bos = true;
  prompt_ = Prompt(config, prompt_.tokenizer());
  rules_.context_tokens = 6;
  rules_.truncate = "tail";
  EXPECT_EQ(text_of(open_text("a.jsonl", kMrqa)->example(0).context), "<256>Rome.");
  rules_.char_cut = true;
  EXPECT_EQ(text_of(open("a.jsonl")->example(0).context), "<256>Rome.");
}

TEST_F(Source, CharactersAreCutBeforeTokens) {
  rules_.context_tokens = 3;
  rules_.char_cut = true;
  rules_.truncate = "head";
  // The last 18 of the 20 characters (21 bytes), of which the first three tokens are kept.
  const auto source = open_text(
      "a.jsonl", "{\"context\": \"0123456789012345678\u00e9\", \"question\": \"q\", \"answers\": \"x\"}\n");
  EXPECT_EQ(text_of(source->example(0).context), "234");
  EXPECT_EQ(source->stats().truncated, 1);
}

TEST_F(Source, QueryBudgetKeepsTheAnswer) {
  rules_.query_tokens = 7;
  const auto source =
      open_text("a.jsonl",
                "{\"context\": \"c\", \"question\": \"abcdef\", \"answers\": \"1234\"}\n"
                "{\"context\": \"d\", \"question\": \"abcdef\", \"answers\": \"12345678\"}\n");
  EXPECT_EQ(text_of(source->example(0).queries[0].prompt), "ef");
  EXPECT_EQ(text_of(source->example(0).queries[0].target), "1234<257>");
  EXPECT_EQ(text_of(source->example(1).queries[0].prompt), "");
  EXPECT_EQ(text_of(source->example(1).queries[0].target), "345678<257>");
  rules_.evaluation = true;
  rules_.query_tokens = 4;
  const Query query = open("a.jsonl")->example(0).queries[0];
  EXPECT_EQ(text_of(query.prompt), "cdef");
  EXPECT_TRUE(query.target.empty());
  PromptConfig config = prompt_.config();
  config.split_question = true;
  config.answer_prompt = "A:";
  prompt_ = Prompt(config, prompt_.tokenizer());
  EXPECT_EQ(text_of(open("a.jsonl")->example(0).queries[0].prompt), "abcdA:");
}

TEST_F(Source, BrokenLinesAreErrorsOrCounted) {
  const std::string good = "{\"context\": \"c\", \"question\": \"q\", \"answers\": \"x\"}\n";
  const std::vector<std::string> broken = {
      "{\"context\": \"c\", \"question\": \"q\", \"answers\": ",    // cut off
      "{\"context\": 3, \"question\": \"q\", \"answers\": \"x\"}",  // wrong types
      "{\"context\": \"c\", \"question\": [], \"answers\": \"x\"}",
      "{\"context\": \"c\", \"question\": \"q\", \"answers\": 3}",
      "{\"context\": \"c\", \"question\": \"q\", \"answers\": [3]}",
      "{\"context\": \"c\", \"question\": \"q\"}",  // missing
      "[1, 2]",
      "null",
      "\"text\"",
      "{}",
      "{\"context\": \"\xff\"}",  // no object, no UTF-8
      std::string("\0", 1)};
  SourceConfig skip;
  skip.on_bad_line = "skip";
  for (const std::string& line : broken) {
    const auto error = error_of([&] { open_text("rows.jsonl", good + good + line + "\n" + good); });
    EXPECT_EQ(error.kind(), ErrorKind::kInput) << line;
    EXPECT_NE(std::string(error.what()).find("rows.jsonl:3"), std::string::npos) << error.what();
    EXPECT_NE(error.hint(), "") << line;
    const auto source = open("rows.jsonl", skip);
    EXPECT_EQ(source->stats().bad_lines, 1) << line;
    EXPECT_EQ(source->stats().queries, 3) << line;
  }
  skip.format = "qa_jsonl";
  EXPECT_EQ(error_of([&] { open_text("rows.jsonl", "{}\n", skip); }).kind(),
            ErrorKind::kInput);  // nothing left
}

TEST_F(Source, BrokenMrqaAndSquad) {
  for (const char* qas :
       {"3", "[3]", "[{\"qid\": 3, \"question\": \"q\", \"answers\": []}]",
        "[{\"qid\": \"1\", \"answers\": [\"x\"]}]", "[{\"qid\": \"1\", \"question\": \"q\"}]"}) {
    const auto error =
        error_of([&] { open_text("m.jsonl", std::string("{\"context\": \"c\", \"qas\": ") + qas + "}\n"); });
    EXPECT_EQ(error.kind(), ErrorKind::kInput) << qas;
    EXPECT_NE(std::string(error.what()).find("m.jsonl:1"), std::string::npos) << error.what();
  }
  SourceConfig config;
  config.format = "squad";
  for (const char* text :
       {"", "{}", "{\"data\": 1}", "{\"data\": [1]}", "{\"data\": [{\"paragraphs\": [{}]}]}",
        "{\"data\": [{\"paragraphs\": [{\"context\": \"c\", \"qas\": [{\"id\": 1}]}]}]}"})
    EXPECT_EQ(error_of([&] { open_text("s.json", text, config); }).kind(), ErrorKind::kInput) << text;
  config.on_bad_line = "skip";
  const auto source =
      open_text("s.json",
                "{\"data\": [{\"paragraphs\": [{}, {\"context\": \"c\", \"qas\": [{\"id\": \"1\", "
                "\"question\": \"q\", \"answers\": [{\"text\": \"x\"}]}]}]}]}",
                config);
  EXPECT_EQ(source->size(), 1);
  EXPECT_EQ(source->stats().bad_lines, 1);
}

TEST_F(Source, ForeignFormatsAreNamedWithTheWayOut) {
  testing::write_text(dir_ / "a.parquet", "PAR1xxxx");
  testing::write_text(dir_ / "b.arrow", "ARROW1xx");
  testing::write_text(dir_ / "c.jsonl.zst", "\x28\xb5\x2f\xfdxxxx");
  EXPECT_NE(error_of([&] { open("a.parquet"); }).hint().find("to_json"), std::string::npos);
  EXPECT_NE(error_of([&] { open("b.arrow"); }).hint().find("to_json"), std::string::npos);
  EXPECT_NE(error_of([&] { open("c.jsonl.zst"); }).hint().find("zstd -d"), std::string::npos);
  EXPECT_EQ(error_of([&] { open(dir_.str()); }).kind(), ErrorKind::kInput);
  EXPECT_EQ(error_of([&] { open_text("d.bin", "\x01\x02"); }).kind(), ErrorKind::kInput);
  EXPECT_NE(error_of([&] { open_text("e.jsonl", "{\"body\": \"x\"}\n"); }).hint().find("text_column"),
            std::string::npos);
  SourceConfig config;
  config.format = "sqaud";
  EXPECT_EQ(error_of([&] { open("e.jsonl", config); }).kind(), ErrorKind::kUsage);
  EXPECT_EQ(error_of([&] { open(""); }).kind(), ErrorKind::kUsage);
}

TEST_F(Source, FingerprintFollowsBytesAndRules) {
  const std::string first = open_text("a.jsonl", kMrqa)->fingerprint();
  EXPECT_EQ(open("a.jsonl")->fingerprint(), first);
  rules_.context_tokens = 100;
  EXPECT_NE(open("a.jsonl")->fingerprint(), first);
  rules_.context_tokens = 512;
  EXPECT_NE(open_text("a.jsonl", std::string(kMrqa) + "\n")->fingerprint(), first);
}

TEST_F(Source, BlocksCarryTheRemainderOrDropIt) {
  rules_.context_tokens = 4;
  rules_.generation_tokens = 2;
  // Each document gets a BOS: <256>abcdefg <256>hijk = 13 tokens, two blocks of six.
  const auto source = open_text("t.jsonl", "{\"text\": \"abcdefg\"}\n{\"text\": \"hijk\"}\n");
  ASSERT_EQ(source->size(), 2);
  EXPECT_EQ(text_of(source->example(0).context), "<256>abc");
  EXPECT_EQ(text_of(source->example(0).queries[0].target), "de");
  EXPECT_TRUE(source->example(0).queries[0].prompt.empty());
  EXPECT_EQ(text_of(source->example(1).context), "fg<256>h");
  SourceConfig second;
  second.skip_samples = second.max_samples = 1;
  const auto rest = open("t.jsonl", second);
  ASSERT_EQ(rest->size(), 1);
  EXPECT_EQ(text_of(rest->example(0).context), "fg<256>h");
  std::string many;
  for (int i = 0; i < 1001; ++i) many += "{\"text\": \"abcdef\"}\n";  // 7 tokens each
  EXPECT_EQ(open_text("many.jsonl", many)->size(), 7 * 1001 / 6);
  rules_.drop_remainder = true;
  EXPECT_EQ(open("many.jsonl")->size(), 7 * 1000 / 6 + 1);
}

TEST_F(Source, PlainTextAndTooLittleText) {
  rules_.context_tokens = 4;
  rules_.generation_tokens = 3;
  testing::write_gzip(dir_ / "t.txt.gz", "ab\ncd");
  EXPECT_EQ(text_of(open("t.txt.gz")->example(0).queries[0].target), "cd\n");
  rules_.generation_tokens = 4;
  EXPECT_EQ(error_of([&] { open("t.txt.gz"); }).kind(), ErrorKind::kInput);
  EXPECT_EQ(error_of([&] { open_text("e.txt", ""); }).kind(), ErrorKind::kInput);
  const auto error = error_of([&] { open_text("x.jsonl", "{\"text\": \"abcdefghijk\"}\n{\"text\": 3}\n"); });
  EXPECT_NE(std::string(error.what()).find("x.jsonl:2"), std::string::npos) << error.what();
}

TEST_F(Source, ReconstructionIsAShareOfTheExamples) {
  rules_.context_tokens = 40;
  rules_.generation_tokens = 35;
  rules_.reconstruction = 0.5;
  std::string text;
  for (int i = 0; i < 9 * 75; ++i) text += static_cast<char>('a' + i % 26);
  const auto source = open_text("t.txt", text);  // 676 tokens with BOS and end of line: nine blocks
  ASSERT_EQ(source->size(), 12);                 // six continued, three repeated in two parts each
  int repeated = 0;
  for (int64_t i = 0; i < source->size(); ++i) {
    const Example example = source->example(i);
    const std::string prompt = text_of(example.queries[0].prompt),
                      target = text_of(example.queries[0].target);
    if (prompt.empty()) continue;
    ++repeated;
    EXPECT_EQ(prompt.substr(0, 28), "Repeat the previous content:");
    EXPECT_EQ(prompt.substr(28) + target,
              text_of(example.context).substr(0, prompt.size() - 28 + target.size()));
    EXPECT_FALSE(target.empty());
  }
  EXPECT_EQ(repeated, 6);
  rules_.generation_tokens = 28;
  EXPECT_EQ(error_of([&] { open("t.txt"); }).kind(), ErrorKind::kUsage);
}

TEST_F(Source, SyntheticEqualsItsWrittenForm) {
  SourceConfig config;
  config.synthetic.count = 20;
  config.synthetic.wording = "mixed";
  const auto generated = open("tiny-facts", config);
  write_synthetic_mrqa(config.synthetic, (dir_ / "facts.jsonl").string());
  const auto read = open("facts.jsonl");
  ASSERT_EQ(generated->size(), 20);
  ASSERT_EQ(read->size(), 20);
  for (int64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(generated->example(i).context, read->example(i).context);
    ASSERT_EQ(generated->example(i).queries.size(), read->example(i).queries.size());
    EXPECT_EQ(generated->example(i).queries[0].target, read->example(i).queries[0].target);
    EXPECT_EQ(generated->example(i).queries[0].id, read->example(i).queries[0].id);
  }
  config.format = "synthetic";
  EXPECT_EQ(error_of([&] { open("other", config); }).kind(), ErrorKind::kUsage);
}

TEST_F(Source, RegistryNamesItsFormats) {
  EXPECT_EQ(source_registry().names(),
            (std::vector<std::string>{"key_values", "mrqa", "qa_jsonl", "squad", "synthetic", "text"}));
}

}  // namespace
}  // namespace ctxc
