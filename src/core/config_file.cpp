#include "core/config_file.h"

#include <algorithm>
#include <filesystem>
#include <vector>

#include "core/error.h"

namespace ctxc {

namespace fs = std::filesystem;

Yaml load_config_file(const std::string& path) {
  std::vector<Yaml> documents;
  std::vector<std::string> files;
  for (std::string next = path; !next.empty();) {
    const Yaml document = Yaml::load(next);
    const Yaml* parent = document.kind() == Yaml::Kind::kMap ? document.find("extends") : nullptr;
    documents.push_back(document.without("extends"));
    files.push_back(fs::weakly_canonical(next).string());
    if (!parent) break;
    CTXC_CHECK(parent->kind() == Yaml::Kind::kScalar && !parent->scalar().empty(), ErrorKind::kUsage,
               "write 'extends: parent.yaml'", "{}: extends: wrong type (expected the path of a file)",
               parent->where());
    next = (fs::path(next).parent_path() / parent->scalar()).lexically_normal().string();
    CTXC_CHECK(fs::is_regular_file(next), ErrorKind::kUsage, "the path is relative to the file that extends",
               "{}: extends: no such file (looked for {})", parent->where(), next);
    CTXC_CHECK(std::find(files.begin(), files.end(), fs::weakly_canonical(next).string()) == files.end(),
               ErrorKind::kUsage, "", "{}: extends: the file extends itself (by way of {})", parent->where(),
               next);
  }
  Yaml result = documents.back();
  for (size_t i = documents.size() - 1; i > 0; --i) result = documents[i - 1].over(result);
  return result;
}

}  // namespace ctxc
