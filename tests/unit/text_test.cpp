#include "core/text.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/registry.h"

namespace ctxc {
namespace {

using Words = std::vector<std::string>;

TEST(Text, SplitAndJoin) {
  EXPECT_EQ(split("a,,b", ','), (Words{"a", "", "b"}));
  EXPECT_EQ(split("", ','), Words{});
  EXPECT_EQ(split(",", ','), (Words{"", ""}));
  EXPECT_EQ(join({"a", "", "b"}, ", "), "a, , b");
  EXPECT_EQ(join({}, ", "), "");
}

TEST(Text, Trim) {
  EXPECT_EQ(trim(" \t a b\r\n"), "a b");
  EXPECT_EQ(trim(" \n"), "");
  EXPECT_EQ(trim(""), "");
  EXPECT_EQ(trim("\u00a0x"), "\u00a0x");
}

TEST(Text, EditDistance) {
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("", "abc"), 3);
  EXPECT_EQ(edit_distance("abc", ""), 3);
  EXPECT_EQ(edit_distance("same", "same"), 0);
}

TEST(Text, DidYouMeanNamesTheNearestOrNothing) {
  const Words keys = {"train.lr", "train.steps", "train.batch"};
  EXPECT_EQ(did_you_mean("train.step", keys), "did you mean 'train.steps'?");
  EXPECT_EQ(did_you_mean("tarin", {"eval", "train"}), "did you mean 'train'?");
  EXPECT_EQ(did_you_mean("lt", {"lr"}), "did you mean 'lr'?");
  EXPECT_EQ(did_you_mean("compressor", keys), "");
  EXPECT_EQ(did_you_mean("x", {"y"}), "");
  EXPECT_EQ(did_you_mean("", keys), "");
  EXPECT_EQ(did_you_mean("a", {}), "");
}

TEST(Text, BytesForPeople) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1024), "1.0 KiB");
  EXPECT_EQ(human_bytes((uint64_t{1} << 20) - 1), "1.0 MiB");
  EXPECT_EQ(human_bytes(1503238554), "1.4 GiB");
}

TEST(Text, DurationsForPeople) {
  EXPECT_EQ(human_duration(0.42), "0.42 s");
  EXPECT_EQ(human_duration(9.999), "10.0 s");
  EXPECT_EQ(human_duration(59.99), "1 min 00 s");
  EXPECT_EQ(human_duration(200), "3 min 20 s");
  EXPECT_EQ(human_duration(3599.9), "1 h 00 min");
  EXPECT_EQ(human_duration(2 * 3600 + 5 * 60 + 10), "2 h 05 min");
  EXPECT_EQ(human_duration(-1), "?");
  EXPECT_EQ(human_duration(NAN), "?");
}

TEST(Text, CountsForPeople) {
  EXPECT_EQ(human_count(134'515'008), "134.5 M");
  EXPECT_EQ(human_count(999), "999");
  EXPECT_EQ(human_count(999'999), "1.0 M");
  EXPECT_EQ(human_count(1000), "1.0 k");
}

TEST(Text, TableColumnsCountCodePointsNotBytes) {
  EXPECT_EQ(format_table({{"set", "F1 ±"}, {"naïve", "9.5"}, {"日本", "26.90 [25, 28]"}, {"x", "–"}}),
            "| set   |           F1 ± |\n"
            "|-------|---------------:|\n"
            "| naïve |            9.5 |\n"
            "| 日本    | 26.90 [25, 28] |\n"
            "| x     |              – |\n");
}

TEST(Text, TablesEscapeAndFillShortRows) {
  EXPECT_EQ(format_table({{"a", "b"}, {"x|y\nz"}}),
            "| a      | b   |\n|--------|-----|\n| x\\|y z |     |\n");
  EXPECT_EQ(format_table({}), "");
}

TEST(Text, ColumnsOfNamesStayLeft) {
  const std::string table = format_table({{"name"}, {"500x"}, {"2wiki"}, {"7"}});
  EXPECT_NE(table.find("| 500x  |"), std::string::npos) << table;
  EXPECT_NE(table.find("| 7     |"), std::string::npos) << table;
}

TEST(Registry, FindsByNameAndSuggests) {
  Registry<int (*)()> registry("compressor");
  registry.add(
      "comprexit", [] { return 1; }, "the first");
  registry.add(
      "icae", [] { return 2; }, "the second");
  EXPECT_EQ(registry.at("icae").factory(), 2);
  EXPECT_TRUE(registry.contains("comprexit"));
  EXPECT_FALSE(registry.contains("comprexi"));
  EXPECT_EQ(registry.names(), (Words{"comprexit", "icae"}));
  try {
    registry.at("comprexi");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_STREQ(error.what(), "unknown compressor (found 'comprexi', expected one of: comprexit, icae)");
    EXPECT_EQ(error.hint(), "did you mean 'comprexit'?");
  }
  EXPECT_THROW(registry.add(
                   "icae", [] { return 3; }, ""),
               Error);
}

}  // namespace
}  // namespace ctxc
