// The shipped bank of random queries is large, varied and knows nothing of any context; users may bring their
// own.
#include "data/query_bank.h"

#include <map>
#include <set>

#include "core/text.h"
#include "data_helpers.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::expect_error;
using testing::TempDir;

TEST(QueryBank, TheProjectsOwn) {
  const std::vector<std::string> bank = load_queries("");
  EXPECT_GE(bank.size(), 1000u);
  EXPECT_EQ(std::set<std::string>(bank.begin(), bank.end()).size(), bank.size());
  std::map<std::string, int> beginnings;
  for (const std::string& query : bank) {
    EXPECT_GE(query.size(), 12u) << query;
    EXPECT_LE(query.size(), 200u) << query;
    for (const char* word :
         {"context", "passage", "the text", "document", "article", "text above", "the following"})
      EXPECT_EQ(query.find(word), std::string::npos) << query;
    const std::vector<std::string> words = split(query, ' ');
    ++beginnings[words[0] + " " + words[1]];
  }
  // Varied: no way to begin has more than a tenth of them, and there are many ways.
  EXPECT_GT(beginnings.size(), 60u);
  for (const auto& [words, count] : beginnings) EXPECT_LT(count, static_cast<int>(bank.size() / 10)) << words;
}

TEST(QueryBank, DrawsAreDisjointAndRepeatable) {
  const std::vector<std::string> bank = load_queries("");
  const QueryDraw draw = draw_queries(bank, 64, 8, 3), again = draw_queries(bank, 64, 8, 3);
  EXPECT_EQ(draw.train, again.train);
  EXPECT_NE(draw.train, draw_queries(bank, 64, 8, 4).train);
  std::set<std::string> all(draw.train.begin(), draw.train.end());
  all.insert(draw.held_out.begin(), draw.held_out.end());
  EXPECT_EQ(all.size(), 72u);
}

TEST(QueryBank, UsersFiles) {
  const TempDir dir;
  testing::write_text(dir / "a.txt", "One?\n\n  Two?  \nOne?\n");
  EXPECT_EQ(load_queries((dir / "a.txt").string()), (std::vector<std::string>{"One?", "Two?"}));
  testing::write_text(dir / "a.jsonl", "{\"query\": \"Three?\"}\n{\"question\": \"Four?\"}\n");
  expect_error(ErrorKind::kInput, "a.jsonl:2", [&] { load_queries((dir / "a.jsonl").string()); });
  expect_error(ErrorKind::kUsage, "too small (found 2, expected at least 2 + 1)", [&] {
    draw_queries({"One?", "Two?"}, 2, 1, 0);
  });
  expect_error(ErrorKind::kInput, "absent.txt", [&] { load_queries((dir / "absent.txt").string()); });
}

}  // namespace
}  // namespace ctxc
