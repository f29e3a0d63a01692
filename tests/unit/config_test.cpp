#include "core/config.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "throws.h"

namespace ctxc {
namespace {

using testing::expect_error;

struct Source {
  std::string path, format = "mrqa";
  double weight = 1;
  std::optional<int64_t> limit;
  void describe(Fields& f) {
    f("path", path, "file, glob or folder").required();
    f("format", format, "kind of file").one_of({"mrqa", "squad", "text"});
    f("weight", weight, "share of the mix").above(0);
    f("limit", limit, "examples used; null = all").min(1);
  }
};

struct Lora {
  int64_t rank = 8;
  double alpha = 16;
  void describe(Fields& f) {
    f("rank", rank, "rank of the update").min(1).max(256);
    f("alpha", alpha, "scale times rank").min(0);
  }
};

/// Has a member of every supported type.
struct Everything {
  bool flag = false;
  int64_t steps = 100;
  double lr = 1e-4, dropout = 0;
  std::string name = "run", schedule = "linear";
  std::vector<std::string> methods = {"full", "none"};
  std::vector<int64_t> layers;
  std::vector<double> betas = {0.9, 0.999};
  std::optional<bool> maybe;
  std::optional<int64_t> seed;
  std::optional<double> clip = 1.0;
  std::optional<std::string> note;
  Lora lora;
  std::vector<Source> train;
  Yaml method;
  void describe(Fields& f) {
    f("flag", flag, "a switch");
    f("steps", steps, "optimizer steps").min(0).unit("steps");
    f("lr", lr, "peak learning rate").above(0);
    f("dropout", dropout, "share dropped").min(0).below(1);
    f("name", name, "name of the run");
    f("schedule", schedule, "decay after warm-up").one_of({"linear", "cosine", "constant"});
    f("methods", methods, "what to evaluate").one_of({"full", "none", "checkpoint"});
    f("layers", layers, "layers to read").min(0).max(99);
    f("betas", betas, "decay of the moments").min(0).below(1);
    f("maybe", maybe, "null = decide later");
    f("seed", seed, "null = random");
    f("clip", clip, "gradient norm; null = no clipping").above(0);
    f("note", note, "free text");
    f.section("lora", lora, "adapters");
    f.list("train", train, "what to train on");
    f("method", method, "read by the method");
  }
};

Everything read(const std::string& text) {
  Everything config;
  read_config(Yaml::parse(text, "c.yaml"), config, "");
  return config;
}

void refuses(const std::string& text, const std::string& message, const std::string& hint = "") {
  EXPECT_EQ(expect_error(ErrorKind::kUsage, message, [&] { read(text); }), hint) << text;
}

constexpr const char* kFull =
    "flag: true\nsteps: 1e4\nlr: 3e-5\ndropout: 0.1\nname: \"5\"\nschedule: cosine\nmethods: [none]\nlayers: "
    "[1, 2_0]\n"
    "betas: [0.5]\nmaybe: false\nseed: 7\nclip: ~\nnote: 'a: b'\nlora:\n  rank: 4\ntrain:\n  - path: "
    "a.jsonl\n"
    "    weight: 2\n  - {path: b, format: text, limit: 10}\nmethod:\n  name: comprexit\n  heads: [1, 2]\n";

TEST(Config, ReadsEveryKindOfMember) {
  const Everything c = read(kFull);
  EXPECT_TRUE(c.flag);
  EXPECT_EQ(c.steps, 10000);
  EXPECT_EQ(c.lr, 3e-5);
  EXPECT_EQ(c.name, "5");
  EXPECT_EQ(c.schedule, "cosine");
  EXPECT_EQ(c.methods, std::vector<std::string>{"none"});
  EXPECT_EQ(c.layers, (std::vector<int64_t>{1, 20}));
  EXPECT_EQ(c.betas, std::vector<double>{0.5});
  EXPECT_EQ(c.maybe, false);
  EXPECT_EQ(c.seed, 7);
  EXPECT_EQ(c.clip, std::nullopt);
  EXPECT_EQ(c.note, "a: b");
  EXPECT_EQ(c.lora.rank, 4);
  EXPECT_EQ(c.lora.alpha, 16);
  ASSERT_EQ(c.train.size(), 2u);
  EXPECT_EQ(c.train[0].path, "a.jsonl");
  EXPECT_EQ(c.train[0].weight, 2);
  EXPECT_EQ(c.train[0].format, "mrqa");
  EXPECT_EQ(c.train[1].limit, 10);
  EXPECT_EQ(c.method.find("name")->scalar(), "comprexit");
}

TEST(Config, AbsentKeysKeepDefaults) {
  for (const char* text : {"", "{}", "lora:\ntrain: []\n"}) {
    const Everything c = read(text);
    EXPECT_EQ(c.steps, 100) << text;
    EXPECT_EQ(c.lora.rank, 8);
    EXPECT_EQ(c.clip, 1.0);
    EXPECT_TRUE(c.train.empty());
    EXPECT_TRUE(c.method.is_null());
  }
}

TEST(Config, UnknownKeysNameTheNearest) {
  refuses("stesp: 1\n", "c.yaml:1:1: unknown key 'stesp'", "did you mean 'steps'?");
  refuses("lora:\n  rnak: 1\n", "c.yaml:2:3: unknown key 'lora.rnak'", "did you mean 'rank'?");
  refuses("train:\n  - path: a\n    wieght: 1\n", "c.yaml:3:5: unknown key 'train.0.wieght'",
          "did you mean 'weight'?");
  refuses("lora: {zzzzzzzz: 1}\n", "unknown key 'lora.zzzzzzzz'", "known keys here: rank, alpha");
}

TEST(Config, WrongTypesNamePositionAndExpectation) {
  refuses("steps: abc\n", "c.yaml:1:8: wrong value of steps (found 'abc', expected an integer, at least 0)");
  refuses("steps: '5'\n", "(found '5' in quotes, expected an integer, at least 0)");
  refuses("steps: 1.5\n", "found '1.5'");
  refuses("steps: [1]\n", "found a list, expected an integer");
  refuses("steps:\n", "found null, expected an integer");
  refuses("flag: yes\n", "(found 'yes', expected true or false)");
  refuses("flag: 'true'\n", "expected true or false");
  refuses("lr: fast\n", "(found 'fast', expected a number, above 0)");
  refuses("lr: nan\n", "found 'nan'");
  refuses("name: [a]\n", "(found a list, expected a string)");
  refuses("name:\n", "(found null, expected a string)", "write \"\" for an empty text");
  refuses("methods: full\n", "expected a list of strings, each one of: full, none, checkpoint",
          "write [a, b]; [] is an empty list");
  refuses("layers: [1, x]\n",
          "c.yaml:1:13: wrong value of layers.1 (found 'x', expected an integer from 0 to 99)");
  refuses("lora: 5\n", "c.yaml:1:7: wrong value of lora (found '5', expected a section");
  refuses("train: {path: a}\n", "wrong value of train (found a map, expected a list of sections)",
          "write one '- key: value' block for each item");
  refuses("[1]\n", "wrong value of the configuration (found a list, expected a section");
  refuses("name: {a: " + std::string(100, 'x') + "}\n", "found a map");
  refuses("steps: " + std::string(100, 'x') + "\n", "found '" + std::string(60, 'x') + "…'");
}

TEST(Config, RangesAndChoices) {
  refuses("steps: -1\n", "(found '-1', expected an integer, at least 0)");
  refuses("lr: 0\n", "(found '0', expected a number, above 0)");
  refuses("dropout: 1\n", "(found '1', expected a number, at least 0 and below 1)");
  refuses("betas: [0.9, 1]\n",
          "wrong value of betas.1 (found '1', expected a number, at least 0 and below 1)");
  refuses("clip: 0\n", "expected a number, above 0)");
  refuses("lora: {rank: 257}\n", "(found '257', expected an integer from 1 to 256)");
  refuses("schedule: cosin\n", "(found 'cosin', expected one of: linear, cosine, constant)",
          "did you mean 'cosine'?");
  refuses("methods: [full, chekpoint]\n", "wrong value of methods.1", "did you mean 'checkpoint'?");
  EXPECT_EQ(read("lora: {rank: 256}\n").lora.rank, 256);
}

TEST(Config, RequiredKeysOfListItems) {
  refuses("train:\n  - weight: 1\n", "c.yaml:2:5: key train.0.path is missing (expected a string)",
          "file, glob or folder");
  refuses("train: [~]\n", "key train.0.path is missing", "file, glob or folder");
}

TEST(Config, AllProblemsAtOnce) {
  try {
    read("stesp: 1\nlr: -1\nlora: {rank: x}\n");
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "3 problems in the configuration\n"
                 "  c.yaml:1:1: unknown key 'stesp'; did you mean 'steps'?\n"
                 "  c.yaml:2:5: wrong value of lr (found '-1', expected a number, above 0)\n"
                 "  c.yaml:3:14: wrong value of lora.rank (found 'x', expected an integer from 1 to 256)");
  }
}

TEST(Config, OverridesComeWithTheirOwnPosition) {
  const auto with = [](const std::string& text) {
    const auto [key, value] = parse_override(text);
    Everything config;
    read_config(Yaml::parse(kFull, "c.yaml").with(key, value), config, "");
    return config;
  };
  EXPECT_EQ(with("lora.rank=16").lora.rank, 16);
  EXPECT_EQ(with("train.1.path=z").train[1].path, "z");
  EXPECT_EQ(with("methods=[full]").methods, std::vector<std::string>{"full"});
  expect_error(ErrorKind::kUsage, "override 'lora.rank=x': wrong value of lora.rank (found 'x'",
               [&] { with("lora.rank=x"); });
  expect_error(ErrorKind::kUsage, "override 'lora.rnk=1': unknown key 'lora.rnk'",
               [&] { with("lora.rnk=1"); });
}

TEST(Config, ExtraKeysBelongToSomebodyElse) {
  Lora lora;
  const Yaml node = Yaml::parse("name: icae\nrank: 2\n", "c.yaml");
  EXPECT_NO_THROW(read_config(node, lora, "compressor", {"name"}));
  EXPECT_EQ(lora.rank, 2);
  expect_error(ErrorKind::kUsage, "c.yaml:1:1: unknown key 'compressor.name'",
               [&] { read_config(node, lora, "compressor"); });
}

TEST(Config, DumpReadsBackToTheSameValues) {
  for (const std::string& text :
       {std::string(kFull), std::string(), std::string("name: \"true\"\nnote: \"\"\nlr: 0.1\n")}) {
    const std::string dumped = dump_config(read(text));
    EXPECT_EQ(dump_config(read(dumped)), dumped);
  }
  EXPECT_EQ(
      dump_config(read(kFull)),
      "flag: true\nsteps: 10000\nlr: 3e-05\ndropout: 0.1\nname: \"5\"\nschedule: cosine\nmethods: [none]\n"
      "layers: [1, 20]\nbetas: [0.5]\nmaybe: false\nseed: 7\nclip: null\nnote: \"a: b\"\nlora:\n  rank: 4\n"
      "  alpha: 16\ntrain:\n  - path: a.jsonl\n    format: mrqa\n    weight: 2\n    limit: null\n  - path: "
      "b\n"
      "    format: text\n    weight: 1\n    limit: 10\nmethod:\n  name: comprexit\n  heads: [1, 2]\n");
  EXPECT_EQ(dump_config(Lora(), 2), "  rank: 8\n  alpha: 16\n");
}

std::string help(const std::string& key, const std::string& prefix = "") {
  Everything config;
  Fields fields;
  config.describe(fields);
  return help_for(fields, key, prefix);
}

TEST(Config, HelpSaysTypeRangeUnitAndDefault) {
  EXPECT_EQ(help("steps"), "steps: an integer, at least 0, in steps, default 100\n    optimizer steps\n");
  EXPECT_EQ(help("schedule"),
            "schedule: one of: linear, cosine, constant, default linear\n    decay after warm-up\n");
  EXPECT_EQ(help("lora"),
            "lora: a section\n    adapters\n"
            "lora.rank: an integer from 1 to 256, default 8\n    rank of the update\n"
            "lora.alpha: a number, at least 0, default 16\n    scale times rank\n");
  EXPECT_EQ(help("lora.rank", "method"),
            "method.lora.rank: an integer from 1 to 256, default 8\n    rank of the update\n");
  EXPECT_EQ(help("method.lora.rank", "method"), help("lora.rank", "method"));
  for (const char* key : {"train.path", "train.0.path", "train[].path"})
    EXPECT_EQ(help(key), "train[].path: a string, required\n    file, glob or folder\n") << key;
  EXPECT_NE(help("").find("method: any value, default null\n"), std::string::npos);
  EXPECT_EQ(expect_error(ErrorKind::kUsage, "no configuration key 'lora.rnk'", [] { help("lora.rnk"); }),
            "did you mean 'lora.rank'?");
}

TEST(Config, ReferencesToOneKeyTwiceAreABug) {
  int64_t value = 0;
  Fields fields;
  fields("a", value, "");
  expect_error(ErrorKind::kInternal, "'a' is described twice", [&] { fields("a", value, ""); });
}

}  // namespace
}  // namespace ctxc
