// The programs of the data layer as a user starts them: ctxc-eval score, ctxc-inspect generate-data,
// get_mrqa.sh.
#include <sys/wait.h>

#include <algorithm>

#include <fstream>

#include "core/file.h"
#include "core/json.h"
#include "testing.h"

namespace ctxc {
namespace {

struct Result {
  int code;
  std::string out, err;
};

Result run(const testing::TempDir& dir, const std::string& command) {
  const std::string out = (dir / "stdout").string(), err = (dir / "stderr").string();
  const int status = std::system(("(" + command + ") >" + out + " 2>" + err).c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(out), read_file(err)};
}

void write(const std::filesystem::path& path, const std::string& text) {
  std::ofstream(path) << text;
}

TEST(EvalScore, PrintsOneJsonObject) {
  const testing::TempDir dir;
  write(dir / "gold.jsonl",
        "{\"header\": {}}\n{\"qas\": [{\"qid\": \"1\", \"answers\": [\"the cat\"]}, "
        "{\"qid\": \"2\", \"answers\": [\"x y\"]}]}\n");
  write(dir / "p.json", R"({"1": "Cat!", "2": "x"})");
  const std::string command = testing::program("ctxc-eval") + " score --gold " +
                              (dir / "gold.jsonl").string() + " --predictions " + (dir / "p.json").string();
  const Result result = run(dir, command + " --per-question " + (dir / "q.jsonl").string());
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_EQ(result.err, "");
  const Json json = parse_json(result.out, "stdout");
  EXPECT_EQ(json.size(), 3u);
  EXPECT_DOUBLE_EQ(json.at("exact_match").get<double>(), 50);
  EXPECT_NEAR(json.at("f1").get<double>(), 100 * (1 + 2.0 / 3) / 2, 1e-9);
  EXPECT_EQ(json.at("n"), 2);
  const std::string rows = read_file((dir / "q.jsonl").string());
  EXPECT_TRUE(rows.starts_with("{\"qid\":\"1\",\"exact_match\":1,\"f1\":1.0}\n{\"qid\":\"2\"")) << rows;

  write(dir / "gold.jsonl", "{\"header\": {}}\n");
  const Result empty = run(dir, command);
  EXPECT_EQ(empty.code, 3);
  EXPECT_EQ(empty.out, "");
  EXPECT_EQ(empty.err.rfind("error: ", 0), 0u) << empty.err;
  EXPECT_EQ(run(dir, testing::program("ctxc-eval") + " score --gold x").code, 2);
  EXPECT_EQ(run(dir, testing::program("ctxc-eval") + " score --gold x --predictions y").code, 3);
}

TEST(InspectGenerateData, WritesTheSameFileForTheSameKeys) {
  const testing::TempDir dir;
  const std::string command =
      testing::program("ctxc-inspect") + " generate-data --count 5 --wording mixed --seed 3";
  ASSERT_EQ(run(dir, command + " --out " + (dir / "a").string()).code, 0);
  ASSERT_EQ(run(dir, command + " --out " + (dir / "b").string()).code, 0);
  const std::string text = read_file((dir / "a").string());
  EXPECT_EQ(text, read_file((dir / "b").string()));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 6);
  EXPECT_EQ(run(dir, command + " --count 0 --out " + (dir / "c").string()).code, 2);
  EXPECT_EQ(run(dir, testing::program("ctxc-inspect") + " generate-data --wording hard --out x").code, 2);
  EXPECT_EQ(run(dir, testing::program("ctxc-inspect") + " generate-data").code, 2);
}

class GetMrqa : public ::testing::Test {
 protected:
  void SetUp() override {
    if (std::system("command -v curl >/dev/null && command -v md5sum >/dev/null") != 0)
      GTEST_SKIP() << "curl and md5sum are needed";
    write(dir_ / "served.jsonl.gz", "content");
    table("file://" + (dir_ / "served.jsonl.gz").string(),
          md5_hex_of_file((dir_ / "served.jsonl.gz").string()));
  }
  void table(const std::string& url, const std::string& md5) {
    write(dir_ / "table.tsv", "# comment\nsplit\tset\turl\tmd5\tquestions\ntrain\tSQuAD\t" + url + "\t" +
                                  md5 + "\t1\nood\tBioASQ\thttp://by.hand/\tx\t2\n");
  }
  Result get(const std::string& more = "") {
    return run(dir_, (testing::root() / "scripts/get_mrqa.sh").string() + " " + (dir_ / "out").string() +
                         " --table " + (dir_ / "table.tsv").string() + " " + more);
  }
  bool has(const std::string& name) { return std::filesystem::exists(dir_ / ("out/mrqa/" + name)); }
  testing::TempDir dir_;
};

TEST_F(GetMrqa, FetchesOnceAndVerifies) {
  EXPECT_EQ(get("--verify").code, 3);
  const Result first = get();
  EXPECT_EQ(first.code, 0) << first.err;
  EXPECT_NE(first.out.find("fetched by hand"), std::string::npos);
  EXPECT_TRUE(has("SQuAD.train.jsonl.gz"));
  std::filesystem::remove(dir_ / "served.jsonl.gz");
  EXPECT_EQ(get().code, 0);  // nothing to fetch
  EXPECT_EQ(get("--verify --splits train").code, 0);
  write(dir_ / "out/mrqa/SQuAD.train.jsonl.gz", "damaged");
  EXPECT_EQ(get("--verify --splits train").code, 3);
}

TEST_F(GetMrqa, LeavesNothingHalfDone) {
  table("file://" + (dir_ / "served.jsonl.gz").string(), std::string(32, '0'));
  const Result wrong = get();
  EXPECT_EQ(wrong.code, 3);
  EXPECT_NE(wrong.err.find("error: SQuAD.train.jsonl.gz: the fetched file is wrong"), std::string::npos)
      << wrong.err;
  table("file:///nowhere/x.jsonl.gz", std::string(32, '0'));
  const Result missing = get();
  EXPECT_EQ(missing.code, 3);
  EXPECT_NE(missing.err.find("hint: "), std::string::npos);
  EXPECT_TRUE(std::filesystem::is_empty(dir_ / "out/mrqa"));
}

TEST_F(GetMrqa, BadArguments) {
  EXPECT_EQ(get("--splits test").code, 2);
  EXPECT_EQ(get("--wrong").code, 2);
  EXPECT_EQ(get("second").code, 2);
  EXPECT_EQ(get("--help").code, 0);
}

}  // namespace
}  // namespace ctxc
