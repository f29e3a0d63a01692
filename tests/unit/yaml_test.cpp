#include "core/yaml.h"

#include <gtest/gtest.h>

#include "core/config_file.h"
#include "core/error.h"
#include "core/file.h"
#include "core/yaml_text.h"
#include "testing.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::expect_error;

TEST(Yaml, KeepsOrderKindsQuotesAndPositions) {
  const Yaml doc = Yaml::parse("b: 1\na:\n  - 'x'\n  - {k: ~}\n", "f.yaml");
  ASSERT_EQ(doc.kind(), Yaml::Kind::kMap);
  ASSERT_EQ(doc.entries().size(), 2u);
  EXPECT_EQ(doc.entries()[0].first, "b");
  EXPECT_EQ(doc.find("b")->scalar(), "1");
  EXPECT_FALSE(doc.find("b")->quoted());
  EXPECT_EQ(doc.find("b")->where(), "f.yaml:1:4");
  EXPECT_EQ(doc.where_key("a"), "f.yaml:2:1");
  EXPECT_EQ(doc.find("c"), nullptr);
  const Yaml& list = *doc.find("a");
  ASSERT_EQ(list.items().size(), 2u);
  EXPECT_TRUE(list.items()[0].quoted());
  EXPECT_EQ(list.items()[0].where(), "f.yaml:3:5");
  EXPECT_TRUE(list.items()[1].find("k")->is_null());
  EXPECT_EQ(list.items()[1].where_key("k"), "f.yaml:4:6");
}

TEST(Yaml, EmptyTextIsNull) {
  for (const char* text : {"", "# nothing\n", "---\n", "~", "null"}) {
    EXPECT_TRUE(Yaml::parse(text, "f").is_null()) << text;
    EXPECT_TRUE(Yaml::parse(text, "f").where().starts_with("f")) << text;
  }
  EXPECT_EQ(Yaml().where(), "<none>");
}

TEST(Yaml, RefusesWhatIsNotPlainYaml) {
  const auto refuses = [](const std::string& text, const std::string& message) {
    expect_error(ErrorKind::kUsage, message, [&] { Yaml::parse(text, "f.yaml"); });
  };
  refuses("a: 1\nb: 2\na: 3\n", "f.yaml:3:1: key 'a' appears twice in this map");
  refuses("a: &x 1\n", "f.yaml:1:4: anchors (&name) are not allowed");
  refuses("a: &x [1]\nb: *x\n", "anchors");
  refuses("a: *x\n", "f.yaml:1:4: ");
  refuses("a: !!python/object:os.system x\n", "f.yaml:1:4: tags are not allowed");
  refuses("a: !<tag:x> [1]\n", "tags are not allowed");
  refuses("a: 1\n---\nb: 2\n", "a second document");
  refuses("a: [1, 2\n", "f.yaml:2:1: not valid YAML");
  refuses("a: 'x\nb: 1\n", "not valid YAML");
  refuses("a: 'x", "not valid YAML");
  refuses("[1, 2\n", "f.yaml:1:1: a key must be text");
  refuses("a: b: c\n", "f.yaml:1:5: not valid YAML");
  refuses("- a\nb: 1\n", "f.yaml:2:1: a second document");
  refuses("a: 1\n]\n", "f.yaml:2:1: ");
  refuses("? [1, 2]\n: x\n", "a key must be text");
  refuses("~: x\n", "a key is missing");
  refuses("a: \xff\n", "f.yaml:1:4: not UTF-8 text (found the byte 0xff)");
  refuses("a:\n \xc3", "f.yaml:2:2: not UTF-8 text");
  refuses("a: \xed\xa0\x80\n", "not UTF-8 text");        // a surrogate
  refuses("a: \xc0\xaf\n", "not UTF-8 text");            // overlong
  refuses("a: 1\x04\nb: 2\n", "(found the byte 0x04)");  // yaml-cpp takes this byte for the end of the text
  refuses(std::string("a: 1\0b", 6), "(found the byte 0x00)");
}

TEST(Yaml, LimitsHold) {
  const YamlLimits limits{.max_bytes = 200, .max_depth = 4, .max_nodes = 10};
  EXPECT_NO_THROW(Yaml::parse("[[[[1]]]]", "f", limits));
  expect_error(ErrorKind::kUsage, "f:1:5: nested too deeply (expected at most 4 levels)",
               [&] { Yaml::parse("[[[[[1]]]]]", "f", limits); });
  expect_error(ErrorKind::kUsage, "too many values (expected at most 10)",
               [&] { Yaml::parse("[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]", "f", limits); });
  expect_error(ErrorKind::kUsage, "too long", [&] { Yaml::parse(std::string(201, ' '), "f", limits); });
  for (const std::string bomb : {"[", "{a: ", "- ", "a:\n ", "? "}) {
    std::string text;
    for (int i = 0; i < 100'000; ++i) text += bomb;
    EXPECT_THROW(Yaml::parse(text, "f"), Error) << bomb;
  }
}

TEST(Yaml, EveryTruncationParsesOrThrowsError) {
  const std::string text =
      "%YAML 1.2\n---\na: \"q\\u00e9\\n\"\nb: [1, {c: 'd'}, |\n]\ne: |\n  block\n  text\nf: >-\n  folded "
      "é\ng: {h: ~}\n...\n";
  for (size_t length = 0; length <= text.size(); ++length) {
    try {
      Yaml::parse(text.substr(0, length), "f");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    }
  }
}

TEST(Yaml, OverridesSetMakeAndAppend) {
  Yaml doc = Yaml::parse("train:\n  lr: 1\n  sets: [a, b]\n", "f.yaml");
  const auto set = [&](const std::string& text) {
    const auto [key, value] = parse_override(text);
    doc = doc.with(key, value);
  };
  set("train.lr=2e-4");
  set("train.sets.1=c");
  set("train.sets.2={path: d}");
  set("new.deep.key=[1, 2]");
  set("list.0.path=x=y");
  set("empty=");
  EXPECT_EQ(yaml_flow(doc),
            "{train: {lr: 2e-4, sets: [a, c, {path: d}]}, new: {deep: {key: [1, 2]}}, list: [{path: x=y}], "
            "empty: null}");
  EXPECT_EQ(doc.find("train")->find("lr")->where(), "override 'train.lr=2e-4'");
  EXPECT_EQ(doc.find("train")->where_key("lr"), "override 'train.lr=2e-4'");
  EXPECT_EQ(doc.where_key("train"), "f.yaml:1:1");
}

TEST(Yaml, OverMergesMapsAndKeepsPositions) {
  const Yaml parent = Yaml::parse("a: {x: 1, y: 2}\nlist: [1, 2, 3]\nonly: here\n", "parent.yaml"),
             child = Yaml::parse("list: [4]\na:\n  y: 5\n  z: 6\nnew: ~\n", "child.yaml");
  const Yaml merged = child.over(parent);
  const Yaml& a = *merged.find("a");
  EXPECT_EQ(a.find("x")->where(), "parent.yaml:1:8");
  EXPECT_EQ(a.where_key("x"), "parent.yaml:1:5");
  EXPECT_EQ(a.find("y")->scalar(), "5");
  EXPECT_EQ(a.find("y")->where(), "child.yaml:3:6");
  EXPECT_EQ(a.where_key("y"), "child.yaml:3:3");
  EXPECT_EQ(a.where_key("z"), "child.yaml:4:3");
  EXPECT_EQ(merged.find("list")->items().size(), 1u);
  EXPECT_EQ(merged.where_key("only"), "parent.yaml:3:1");
  EXPECT_TRUE(merged.find("new")->is_null());
  EXPECT_EQ(merged.without("a").find("a"), nullptr);
  EXPECT_EQ(merged.without("a").where_key("new"), "child.yaml:5:1");
  EXPECT_EQ(merged.with("a.x", Yaml::parse("9", "f")).find("a")->find("x")->scalar(), "9");
  EXPECT_EQ(Yaml::parse("[1]", "f").over(parent).kind(), Yaml::Kind::kList);
}

TEST(ConfigFile, ExtendsOthersByRelativePath) {
  const testing::TempDir temp;
  const auto write = [&](const std::string& name, const std::string& text) {
    std::filesystem::create_directories((temp / name).parent_path());
    write_file_atomic((temp / name).string(), text);
    return (temp / name).string();
  };
  write("base.yaml", "train: {lr: 1, steps: 2}\n");
  write("middle.yaml", "extends: base.yaml\ntrain: {steps: 3}\n");
  const Yaml leaf = load_config_file(write("sub/leaf.yaml", "extends: ../middle.yaml\ntrain: {batch: 4}\n"));
  EXPECT_EQ(leaf.find("extends"), nullptr);
  const Yaml& train = *leaf.find("train");
  EXPECT_EQ(train.find("lr")->scalar() + train.find("steps")->scalar() + train.find("batch")->scalar(),
            "134");
  EXPECT_EQ(train.find("steps")->where(), (temp / "middle.yaml").string() + ":2:16");

  const std::string self = write("self.yaml", "extends: self.yaml\n");
  expect_error(ErrorKind::kUsage, self + ":1:10: extends: the file extends itself",
               [&] { load_config_file(self); });
  write("one.yaml", "extends: two.yaml\n");
  const std::string two = write("two.yaml", "extends: one.yaml\n");
  expect_error(ErrorKind::kUsage, "the file extends itself", [&] { load_config_file(two); });
  const std::string lost = write("lost.yaml", "extends: nowhere.yaml\n");
  expect_error(ErrorKind::kUsage, lost + ":1:10: extends: no such file", [&] { load_config_file(lost); });
  for (const char* wrong : {"extends: [base.yaml]\n", "extends: ~\n", "extends: ''\n"}) {
    const std::string file = write("wrong.yaml", wrong);
    expect_error(ErrorKind::kUsage, "extends: wrong type", [&] { load_config_file(file); });
  }
}

TEST(Yaml, BadOverrides) {
  const Yaml doc = Yaml::parse("lr: 1\nlist: [a]\n", "f.yaml");
  expect_error(ErrorKind::kUsage, "override 'lr': no key and value", [] { parse_override("lr"); });
  expect_error(ErrorKind::kUsage, "override '=1'", [] { parse_override("=1"); });
  expect_error(ErrorKind::kUsage, "override 'a=[1, 2': ", [] { parse_override("a=[1, 2"); });
  const auto refuses = [&](const std::string& text, const std::string& message) {
    const auto [key, value] = parse_override(text);
    expect_error(ErrorKind::kUsage, message, [&, key = key, value = value] { doc.with(key, value); });
  };
  refuses("lr.x=1", "override 'lr.x=1': 'x' cannot be set below the value '1' at f.yaml:1:5");
  refuses("list.2=1", "no such item of the list at f.yaml:2:7 (found '2', expected 0 to 1)");
  refuses("list.x=1", "no such item");
  refuses("a..b=1", "a part of the key is empty");
  std::string deep = "a";
  for (int i = 0; i < 100'000; ++i) deep += ".a";
  refuses(deep + "=1", "too many parts");
}

TEST(YamlText, Integers) {
  EXPECT_EQ(yaml_integer("12"), 12);
  EXPECT_EQ(yaml_integer("-3"), -3);
  EXPECT_EQ(yaml_integer("+3"), 3);
  EXPECT_EQ(yaml_integer("1_000_000"), 1000000);
  EXPECT_EQ(yaml_integer("1e4"), 10000);
  EXPECT_EQ(yaml_integer("2.5e3"), 2500);
  EXPECT_EQ(yaml_integer("9223372036854775807"), INT64_MAX);
  EXPECT_EQ(yaml_integer("-9223372036854775808"), INT64_MIN);
  for (const char* text : {"",     "-",     "+",    "abc", "1.5", "1e-1", "9223372036854775808",
                           "1e19", "1e400", "0x10", "_1",  "1_",  "1__0", "1 2",
                           "inf",  "nan",   ".inf", "++1", "+-1", "true"})
    EXPECT_EQ(yaml_integer(text), std::nullopt) << text;
}

TEST(YamlText, NumbersAndBooleans) {
  EXPECT_EQ(yaml_number("1e-4"), 1e-4);
  EXPECT_EQ(yaml_number(".5"), 0.5);
  EXPECT_EQ(yaml_number("-.5"), -0.5);
  EXPECT_EQ(yaml_number("5."), 5.0);
  EXPECT_EQ(yaml_number("1_000.5"), 1000.5);
  EXPECT_EQ(yaml_number("-.inf"), -INFINITY);
  for (const char* text :
       {"", "nan", ".nan", "inf", "-inf", "infinity", "1e999", "1e", "0x1p3", "1,5", "--1"})
    EXPECT_EQ(yaml_number(text), std::nullopt) << text;
  EXPECT_EQ(yaml_bool("true"), true);
  EXPECT_EQ(yaml_bool("False"), false);
  EXPECT_EQ(yaml_bool("yes"), std::nullopt);
}

TEST(YamlText, StringsReadBackAsThemselves) {
  for (const std::string text : {"",
                                 "a",
                                 "a b",
                                 " a",
                                 "a ",
                                 "1",
                                 "1e4",
                                 "true",
                                 "Null",
                                 "~",
                                 "no",
                                 "-",
                                 "- a",
                                 "a: b",
                                 "a #b",
                                 "#",
                                 "[a]",
                                 "{",
                                 "'",
                                 "\"",
                                 "back\\slash",
                                 "line\nbreak",
                                 "tab\t",
                                 "\r",
                                 "\x01\x7f",
                                 "é 漢 🙂",
                                 "\xc2\x85",
                                 "\xe2\x80\xa8",
                                 "*x",
                                 "&x",
                                 "!x",
                                 "%x",
                                 "@x",
                                 "`x",
                                 "|",
                                 ">",
                                 "...",
                                 "---",
                                 "..",
                                 "../a",
                                 "./b",
                                 ".5",
                                 ".inf",
                                 "a,b",
                                 "?",
                                 "/a/b-c.json",
                                 "<<",
                                 "=",
                                 "Question: "}) {
    const Yaml map = Yaml::parse("key: " + yaml_string(text) + "\n" + yaml_string(text) + ": 1\n", "f");
    EXPECT_EQ(map.find("key")->scalar(), text);
    EXPECT_EQ(map.entries()[1].first, text);
    const Yaml list = Yaml::parse("[" + yaml_string(text) + "]", "f");
    ASSERT_EQ(list.items().size(), 1u) << text;
    EXPECT_EQ(list.items()[0].scalar(), text);
    EXPECT_EQ(list.items()[0].kind(), Yaml::Kind::kScalar) << text;
  }
}

TEST(YamlText, NumbersReadBackExactly) {
  for (const double value :
       {0.0, 1.0, 0.1, 1e-4, 1.0 / 3, 1e300, 5e-324, -2.5, 123456789012345680.0, double(INFINITY)})
    EXPECT_EQ(yaml_number(yaml_string(value)), value);
}

TEST(YamlText, TreesReadBackInBothStyles) {
  const std::string text =
      "a: {b: [1, '1', x y, ~], c: {}, d: []}\nlist:\n- k: v\n  m: [1, 2]\n- [[1], {}]\n- ~\n\"odd: key\": "
      "\"\"\n";
  const Yaml doc = Yaml::parse(text, "f");
  const std::string flow = yaml_flow(doc), block = yaml_block(doc, 0);
  EXPECT_EQ(yaml_flow(Yaml::parse(flow, "f")), flow);
  EXPECT_EQ(yaml_flow(Yaml::parse("top:" + block, "f")), "{top: " + flow + "}");
  EXPECT_EQ(
      block,
      "\n  a:\n    b: [1, \"1\", x y, null]\n    c: {}\n    d: []\n  list:\n    - k: v\n      m: [1, 2]\n"
      "    - [[1], {}]\n    - null\n  \"odd: key\": \"\"\n");
}

}  // namespace
}  // namespace ctxc
