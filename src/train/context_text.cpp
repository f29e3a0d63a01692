#include "train/context_text.h"

#include <filesystem>
#include <iostream>
#include <iterator>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "data/jsonl.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

/// Letters, digits, '-', '_' and '.'; everything else becomes '-'.
std::string file_name_of(const std::string& text) {
  std::string name;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    name += plain || c == '_' || c == '.' ? c : '-';
  }
  return name.empty() || name[0] == '.' ? "context" + name : name;
}

class Contexts {
 public:
  void add(const std::string& id, std::string text, const std::string& origin,
           std::vector<Question> questions = {}, std::string continuation = {}) {
    CTXC_CHECK(!trim(text).empty(), ErrorKind::kInput, "give a text with at least one character",
               "{}: the context is empty", origin);
    std::string name = file_name_of(id);
    for (int64_t n = 2; !names_.insert(name).second; ++n) name = fmt::format("{}-{}", file_name_of(id), n);
    all.push_back({name, std::move(text), std::move(questions), std::move(continuation)});
  }
  std::vector<ContextText> all;

 private:
  std::set<std::string> names_;
};

std::string path_of(const RunConfig& config, const std::string& entry) {
  const bool below_root = !config.data.root.empty() && fs::path(entry).is_relative();
  const std::string path = below_root ? (fs::path(config.data.root) / entry).string() : entry;
  return below_root && !fs::exists(path) ? entry : path;
}

/// Key `qas` of an MRQA row; none where there is no such key.
std::vector<Question> questions_of(const Json& row, const std::string& origin) {
  std::vector<Question> questions;
  if (!row.is_object() || !row.contains("qas")) return questions;
  for (const Json& qa : row.at("qas"))
    questions.push_back({json_or<std::string>(qa, "qid", "", origin),
                         json_at<std::string>(qa, "question", origin), answers_at(qa, "answers", origin)});
  return questions;
}

void read_lines(const std::string& path, const std::string& stem, Contexts& contexts) {
  for_each_line(path, [&](std::string_view line, int64_t number) {
    if (trim(line).empty()) return;
    const std::string origin = fmt::format("{}:{}", path, number);
    const Json row = parse_json(line, path, number);
    if (number == 1 && row.is_object() && row.contains("header")) return;  // MRQA
    const std::string key = row.is_object() && row.contains("text") ? "text" : "context";
    contexts.add(json_or<std::string>(row, "id", fmt::format("{}-{}", stem, number), origin),
                 json_at<std::string>(row, key, origin), origin, questions_of(row, origin),
                 json_or<std::string>(row, "continuation", "", origin));
  });
}

}  // namespace

std::vector<ContextText> read_contexts(const RunConfig& config) {
  CTXC_CHECK(!config.data.contexts.empty(), ErrorKind::kUsage, "data.contexts=[a.txt, b.txt]",
             "data.contexts is empty: nothing to compile");
  Contexts contexts;
  for (const std::string& entry : config.data.contexts) {
    if (entry == "-") {
      contexts.add("stdin", {std::istreambuf_iterator<char>(std::cin), std::istreambuf_iterator<char>()},
                   "-");
      continue;
    }
    const std::string path = path_of(config, entry);
    CTXC_CHECK(fs::is_regular_file(path), ErrorKind::kInput, "see data.contexts and data.root",
               "{}: no such file", path);
    const bool lines = path.ends_with(".jsonl") || path.ends_with(".jsonl.gz");
    const std::string name = fs::path(path).filename().string();
    const std::string stem = name.substr(0, name.find('.'));
    if (lines)
      read_lines(path, stem, contexts);
    else
      contexts.add(stem, read_file(path), path);
  }
  CTXC_CHECK(!contexts.all.empty(), ErrorKind::kInput, "", "data.contexts: the files hold no context");
  return std::move(contexts.all);
}

}  // namespace ctxc
