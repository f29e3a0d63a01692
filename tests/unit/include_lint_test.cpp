// Reads the #include lines of src/: the layers may use one another in one direction only.
#include <algorithm>
#include <array>
#include <optional>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"
#include "testing.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

/// From left to right: a layer may include itself and those before it.
constexpr std::array<std::string_view, 5> kLayers = {"core", "data", "model", "eval", "train"};
constexpr size_t kFirstWithTorch = 2;

std::optional<size_t> layer_of(std::string_view path) {
  const auto found = std::find(kLayers.begin(), kLayers.end(), path.substr(0, path.find('/')));
  if (found == kLayers.end() || path.find('/') == std::string_view::npos) return std::nullopt;
  return found - kLayers.begin();
}

/// What is wrong with this line of `path` (relative to src/), or "".
std::string complaint(const std::string& path, std::string_view line) {
  line = trim(line);
  if (!line.starts_with('#')) return "";
  line = trim(line.substr(1));
  if (!line.starts_with("include")) return "";
  line = trim(line.substr(7));
  if (line.size() < 2) return "an include without a name";
  const bool is_main = fs::path(path).filename().string().starts_with("ctxc_") && path.ends_with(".cpp");
  const bool own = line[0] == '"';
  const std::string_view name = line.substr(1, line.find(own ? '"' : '>', 1) - 1);
  const std::optional<size_t> from = layer_of(path), to = layer_of(name);
  if (!from) return "a source file outside of the layers";
  if (name == "torch/torch.h") return "torch/torch.h includes everything; name the headers you need";
  if (own) {
    if (name == "version.h" && *from == 0) return "";  // written by the build
    if (!to) return "own headers are named from src/ on: \"layer/header.h\"";
    if (*to > *from && !is_main) return fmt::format("{} must not include {}", kLayers[*from], kLayers[*to]);
    return "";
  }
  if (to) return "own headers are included with quotes";
  const std::string_view top = name.substr(0, name.find('/'));
  const bool torch = top == "torch" || top == "ATen" || top == "c10" || top == "caffe2";
  if (torch && *from < kFirstWithTorch && !is_main)
    return fmt::format("{} knows nothing of LibTorch", kLayers[*from]);
  return "";
}

TEST(IncludeLint, TheRulesAreRules) {
  EXPECT_NE(complaint("core/a.cpp", "#include \"data/batch.h\""), "");
  EXPECT_NE(complaint("model/blocks/a.h", "  #  include \"eval/score.h\""), "");
  EXPECT_NE(complaint("eval/a.h", "#include \"train/trainer.h\""), "");
  EXPECT_NE(complaint("data/a.h", "#include <ATen/ATen.h>"), "");
  EXPECT_NE(complaint("core/a.h", "#include <c10/core/Device.h>"), "");
  EXPECT_NE(complaint("model/a.h", "#include <torch/torch.h>"), "");
  EXPECT_NE(complaint("train/ctxc_train.cpp", "#include <torch/torch.h>"), "");
  EXPECT_NE(complaint("model/a.h", "#include \"shapes.h\""), "");
  EXPECT_NE(complaint("model/a.h", "#include <core/error.h>"), "");
  EXPECT_NE(complaint("other/a.h", "#include <string>"), "");
  EXPECT_EQ(complaint("train/a.h", "#include \"eval/score.h\""), "");
  EXPECT_EQ(complaint("model/blocks/a.h", "#include \"model/shapes.h\"  // legend"), "");
  EXPECT_EQ(complaint("model/a.h", "#include <torch/nn/module.h>"), "");
  EXPECT_EQ(complaint("eval/ctxc_eval.cpp", "#include \"train/checkpoint.h\""), "");
  EXPECT_EQ(complaint("core/version.cpp", "#include \"version.h\""), "");
  EXPECT_EQ(complaint("core/a.h", "// #include <torch/torch.h>"), "");
}

TEST(IncludeLint, SourcesFollowThem) {
  const fs::path src = testing::root() / "src";
  int64_t files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(src)) {
    const std::string extension = entry.path().extension();
    if (extension != ".h" && extension != ".cpp" && extension != ".cu") continue;
    ++files;
    const std::string path = fs::relative(entry.path(), src);
    for_each_line(entry.path(), [&](std::string_view line, int64_t number) {
      const std::string problem = complaint(path, line);
      EXPECT_EQ(problem, "") << "src/" << path << ":" << number << ": " << line;
    });
  }
  EXPECT_GT(files, 20) << "looked in " << src;
}

}  // namespace
}  // namespace ctxc
