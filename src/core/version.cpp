// Apart from the rest of the command line, since every commit compiles this file again.
#include "version.h"

#include <fmt/format.h>

#include "core/cli.h"

namespace ctxc {
namespace {

std::vector<std::function<std::string()>>& lines() {
  static std::vector<std::function<std::string()>> lines;
  return lines;
}

}  // namespace

std::string version_text(bool verbose) {
  std::string text = fmt::format("ctxc {} ({})\n", CTXC_VERSION, CTXC_COMMIT);
  if (!verbose) return text;
  text += fmt::format("compiler: {}\nbuild type: {}\nLibTorch: {}\n", CTXC_COMPILER, CTXC_BUILD_TYPE,
                      CTXC_TORCH_VERSION);
  for (const auto& line : lines()) text += line() + "\n";
  return text;
}

void add_version_line(std::function<std::string()> line) {
  lines().push_back(std::move(line));
}

}  // namespace ctxc
