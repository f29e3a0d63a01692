#include "core/json.h"

#include <gtest/gtest.h>

#include "core/file.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::expect_error;

TEST(Json, ParsesValuesThatFillTheText) {
  const Json json = parse_json(R"({"a": [1, 2.5, "x\u00e9", true, null], "b": -9223372036854775808})", "f");
  EXPECT_EQ(json["a"][2], "xé");
  EXPECT_EQ(json["b"].get<int64_t>(), INT64_MIN);
  EXPECT_EQ(parse_json(" 5 ", "f"), 5);
}

TEST(Json, ErrorsNamePlaceAndReason) {
  const auto refuses = [](const std::string& text, const std::string& message, int64_t line = 1) {
    return expect_error(ErrorKind::kInput, message, [&] { parse_json(text, "f.json", line); });
  };
  refuses("{\"a\": 1,\n  \"é\": x}",
          "f.json:2:8: not valid JSON: syntax error while parsing value - invalid literal");
  refuses("{\"a\": 1}}", "f.json:1:9: not valid JSON: ");
  refuses("{\"a\": }", "f.json:41:7: ", 41);
  EXPECT_EQ(refuses("{\"a\": [1, 2", "f.json:1:12: "), "the text ends too early: is the file complete?");
  refuses("", "f.json:1:1: ");
  refuses("[1,\n 1e999]", "f.json:2:2: not valid JSON: number overflow parsing '1e999'");
  for (const char* text : {"nan", "Infinity", "01", "1.", "'a'", "[1,]", "{a: 1}", "\"\t\"", "\"\\x\"",
                           "\"\\ud800\"", "// c\n1", "1e999", "tru", "[1 2]"})
    refuses(text, "f.json:1:");
  refuses("\"" + std::string(500, 'a') + "\n\"", "…");
}

TEST(Json, InvalidUtf8IsRefusedAndNotRepeated) {
  for (const std::string bytes : {"\xff", "\xc3", "\xc0\xaf", "\xed\xa0\x80", "\xf5\x80\x80\x80"}) {
    try {
      parse_json("\"" + bytes + "\"", "f");
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find(bytes), std::string::npos);
    }
  }
}

TEST(Json, LimitsHold) {
  const JsonLimits limits{.max_bytes = 100, .max_depth = 4};
  EXPECT_NO_THROW(parse_json("[[[[1]]]]", "f", 1, limits));
  EXPECT_NO_THROW(parse_json(R"("[[[[[[[\"[[[")", "f", 1, limits));
  expect_error(ErrorKind::kInput, "f:1:5: JSON is nested too deeply (expected at most 4 levels)",
               [&] { parse_json("[[[[[1]]]]]", "f", 1, limits); });
  expect_error(ErrorKind::kInput, "too long (found 101 bytes, expected at most 100)",
               [&] { parse_json(std::string(101, ' '), "f", 1, limits); });
  for (const std::string bomb : {"[", "{\"a\":", "[{\"a\":"}) {
    std::string text;
    for (int i = 0; i < 1'000'000; ++i) text += bomb;
    expect_error(ErrorKind::kInput, "nested too deeply", [&] { parse_json(text, "f"); });
  }
}

TEST(Json, KeysThatAppearTwice) {
  const std::string text = R"({"a": {"b": 1}, "c": [{"b": 1}, {"b": 2}], "b": 3})";
  const JsonLimits unique{.unique_keys = true};
  EXPECT_EQ(parse_json(text, "f", 1, unique), parse_json(text, "f"));
  EXPECT_EQ(parse_json(R"({"a": 1, "a": 2})", "f")["a"], 2);
  expect_error(ErrorKind::kInput, "f: key 'a' appears twice",
               [&] { parse_json(R"({"a": 1, "a": 2})", "f", 1, unique); });
  expect_error(ErrorKind::kInput, "key 'x' appears twice",
               [&] { parse_json(R"([{"x": {}, "x": 1}])", "f", 1, unique); });
}

TEST(Json, EveryTruncationIsAnError) {
  const std::string text = R"({"a": [1, -2.5e3, "x\u00e9\n"], "b": {"c": null, "d": true}, "é": "漢"})";
  EXPECT_NO_THROW(parse_json(text, "f"));
  for (size_t length = 0; length < text.size(); ++length)
    EXPECT_THROW(parse_json(text.substr(0, length), "f"), Error) << length;
}

TEST(Json, TypedAccess) {
  const Json json =
      parse_json(R"({"i": 3, "big": 9223372036854775808, "f": 1.5, "s": "x", "b": true, "n": null})", "f");
  EXPECT_EQ(json_at<int64_t>(json, "i", "f"), 3);
  EXPECT_EQ(json_at<double>(json, "i", "f"), 3);
  EXPECT_EQ(json_at<std::string>(json, "s", "f"), "x");
  EXPECT_TRUE(json_at<bool>(json, "b", "f"));
  EXPECT_EQ(json_or<int64_t>(json, "n", 7, "f"), 7);
  EXPECT_EQ(json_or<int64_t>(json, "absent", 7, "f"), 7);
  const auto refuses = [&](const std::string& message, auto type, const std::string& key) {
    expect_error(ErrorKind::kInput, message, [&] { json_at<decltype(type)>(json, key, "f"); });
  };
  refuses("f: key 'x' is missing (expected an integer)", int64_t{}, "x");
  refuses("f: key 'f' has a wrong value (found 1.5, expected an integer)", int64_t{}, "f");
  refuses("found 9223372036854775808, expected an integer", int64_t{}, "big");
  refuses("(found \"x\", expected a number)", double{}, "s");
  refuses("(found 3, expected true or false)", bool{}, "i");
  refuses("(found true, expected a string)", std::string{}, "b");
  expect_error(ErrorKind::kInput, "f: wrong type (found array, expected an object with the key 'k')",
               [] { json_at<bool>(Json::array(), "k", "f"); });
  expect_error(ErrorKind::kInput, "found string of", [] {
    json_at<bool>(Json{{"k", std::string(100, 'x')}}, "k", "f");
  });
  expect_error(ErrorKind::kInput, "expected an integer", [&] { json_or<int64_t>(json, "s", 1, "f"); });
}

TEST(Json, ReadsFiles) {
  testing::TempDir dir;
  write_file_atomic(dir / "a.json", "{\"a\":\n!}");
  expect_error(ErrorKind::kInput, "a.json:2:1: not valid JSON", [&] { read_json_file(dir / "a.json"); });
  expect_error(ErrorKind::kInput, "none.json", [&] { read_json_file(dir / "none.json"); });
}

}  // namespace
}  // namespace ctxc
