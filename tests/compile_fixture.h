// Compiles of a second or two: a text, a bank of random queries, the embedded base.
#pragma once
#include <string>
#include <vector>

#include "data_helpers.h"
#include "testing.h"
#include "train/run_config.h"

namespace ctxc::testing {

inline constexpr const char* kText =
    "Ada was born in Paris in the year 1912 and works as a baker. Her brother Tom lives in Rome and plays "
    "the violin. "
    "They meet every summer in a small house by the sea, where their friend Eva writes letters.";

/// Compiles on the embedded base.
class Compile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string bank;
    for (int i = 0; i < 12; ++i) bank += fmt::format("Question: what is {} plus {}?\n", i, i + 2);
    write_text(folder_ / "bank.txt", bank);
    write_text(folder_ / "a.txt", kText);
  }
  RunConfig config(const std::vector<std::string>& overrides = {},
                   const std::string& contexts = "a.txt") const {
    const std::string base = (root() / "models/tiny-facts").string();
    std::vector<std::string> all = {"backbone.path=" + base,
                                    "run.dir=" + (folder_ / "run").string(),
                                    "data.root=" + folder_.str(),
                                    "data.contexts=[" + contexts + "]",
                                    "compressor.preset=small",
                                    "compressor.ratio=8",
                                    "compressor.lora.rank=4",
                                    "compressor.storage=float32",
                                    "compressor.recon.chunk=32",
                                    "queries.path=" + (folder_ / "bank.txt").string(),
                                    "queries.count=8",
                                    "queries.held_out=3",
                                    "queries.max_new=6",
                                    "train.steps=12",
                                    "train.valid_every=6"};
    all.insert(all.end(), overrides.begin(), overrides.end());
    return resolve_run_config(Yaml::parse("compressor: {name: lcc}", "test"), all);
  }
  /// The contexts that the lines of a file of the run are about.
  std::vector<std::string> lines_of(const std::string& name) const {
    std::vector<std::string> about;
    for_each_line((folder_ / ("run/" + name)).string(), [&](std::string_view line, int64_t number) {
      about.push_back(parse_json(line, name, number)["context"].get<std::string>());
    });
    return about;
  }
  TempDir folder_;
};

}  // namespace ctxc::testing
