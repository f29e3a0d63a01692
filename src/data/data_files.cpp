#include "data/data_files.h"

#include <glob.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/json.h"
#include "core/text.h"
#include "data/jsonl.h"
#include "data/source.h"

namespace ctxc {
namespace {

namespace fs = std::filesystem;

constexpr std::array<std::string_view, 3> kTextEndings = {".txt", ".text", ".md"};
constexpr std::array<std::string_view, 2> kJsonEndings = {".jsonl", ".json"};

/// The name without a final ".gz".
std::string plain_name(const std::string& file) {
  return file.ends_with(".gz") ? file.substr(0, file.size() - 3) : file;
}

template <size_t N>
bool has_ending(const std::string& file, const std::array<std::string_view, N>& endings) {
  const std::string name = plain_name(file);
  return std::any_of(endings.begin(), endings.end(),
                     [&](std::string_view ending) { return name.ends_with(ending); });
}

/// "shard-2" < "shard-10".
bool natural_less(const std::string& a, const std::string& b) {
  size_t i = 0, j = 0;
  const auto digit = [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; };
  const auto number = [&](const std::string& text, size_t& at) {
    while (at + 1 < text.size() && text[at] == '0' && digit(text[at + 1])) ++at;
    const size_t begin = at;
    while (at < text.size() && digit(text[at])) ++at;
    return text.substr(begin, at - begin);
  };
  while (i < a.size() && j < b.size()) {
    if (digit(a[i]) && digit(b[j])) {
      const std::string x = number(a, i), y = number(b, j);
      if (x != y) return x.size() != y.size() ? x.size() < y.size() : x < y;
    } else if (a[i] != b[j]) {
      return a[i] < b[j];
    } else {
      ++i, ++j;
    }
  }
  return (a.size() - i) != (b.size() - j) ? a.size() - i < b.size() - j : a < b;
}

/// Columnar and zstd files are expected by many; they are refused with the way out.
void refuse_foreign(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  std::string magic(6, '\0');
  in.read(magic.data(), 6);
  const bool parquet = magic.starts_with("PAR1"), arrow = magic == "ARROW1" || file.ends_with(".arrow");
  CTXC_CHECK(!parquet && !arrow, ErrorKind::kInput,
             fmt::format("convert it: python3 -c \"import datasets; "
                         "datasets.load_dataset('{}', data_files='{}')['train'].to_json('{}.jsonl')\"",
                         parquet ? "parquet" : "arrow", file, fs::path(file).stem().string()),
             "{}: {} files are not read (expected JSONL, SQuAD JSON or text)", file,
             parquet ? "Parquet" : "Arrow");
  CTXC_CHECK(!magic.starts_with("\x28\xb5\x2f\xfd"), ErrorKind::kInput,
             fmt::format("unpack it: zstd -d {}", file),
             "{}: zstd files are not read (expected plain or gzip)", file);
}

std::vector<std::string> files_of_folder(const std::string& folder) {
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (!entry.is_regular_file()) continue;
    const std::string file = entry.path().string();
    if (file.ends_with(".parquet") || file.ends_with(".arrow")) refuse_foreign(file);
    const std::string name = entry.path().filename().string();
    if (name.starts_with(".") || name == "dataset_info.json" || name == "state.json") continue;
    if (has_ending(file, kTextEndings) || has_ending(file, kJsonEndings)) files.push_back(file);
  }
  return files;
}

std::vector<std::string> files_of_glob(const std::string& pattern) {
  glob_t found = {};
  std::vector<std::string> files;
  if (glob(pattern.c_str(), GLOB_NOSORT, nullptr, &found) == 0)
    for (size_t i = 0; i < found.gl_pathc; ++i)
      if (fs::is_regular_file(found.gl_pathv[i])) files.emplace_back(found.gl_pathv[i]);
  globfree(&found);
  return files;
}

/// The first row as an object; null if the line is not JSON by itself.
Json first_object(const std::string& file) {
  try {
    return parse_json(first_line(file), file);
  } catch (const Error&) {
    return nullptr;
  }
}

}  // namespace

std::vector<std::string> resolve_data_files(const std::string& path, const std::string& root) {
  CTXC_CHECK(!path.empty(), ErrorKind::kUsage, "", "data: an entry has no path");
  const std::string full =
      fs::path(path).is_absolute() || root.empty() ? path : (fs::path(root) / path).string();
  std::vector<std::string> files;
  if (fs::is_directory(full)) {
    files = files_of_folder(full);
    CTXC_CHECK(!files.empty(), ErrorKind::kInput, "",
               "{}: no data file in this folder (expected .jsonl, .json or .txt, "
               "also with .gz)",
               full);
  } else if (full.find_first_of("*?[") != std::string::npos && !fs::exists(full)) {
    files = files_of_glob(full);
    CTXC_CHECK(!files.empty(), ErrorKind::kInput, "", "{}: no file matches", full);
  } else {
    CTXC_CHECK(fs::exists(full), ErrorKind::kInput,
               fs::path(path).is_absolute()
                   ? ""
                   : "relative paths are looked up below data.root (environment CTXC_DATA)",
               "{}: no such file", full);
    files = {full};
  }
  std::sort(files.begin(), files.end(), natural_less);
  for (const std::string& file : files) refuse_foreign(file);
  return files;
}

std::string recognise_format(const std::string& file, const SourceConfig& config) {
  if (has_ending(file, kTextEndings)) return "text";
  const Json row = first_object(file);
  if (row.is_object()) {
    if (row.contains("header") || (row.contains("context") && row.contains("qas"))) return "mrqa";
    if (row.contains("data") && row.at("data").is_array()) return "squad";
    if (row.contains(config.context_column) && row.contains(config.question_column)) return "qa_jsonl";
    if (row.contains(config.text_column)) return "text";
  }
  // A SQuAD file that was written over several lines.
  if (row.is_null() && plain_name(file).ends_with(".json") && trim(first_line(file)).starts_with("{"))
    return "squad";
  throw Error(ErrorKind::kInput,
              fmt::format("{}: the format cannot be recognised (expected MRQA, SQuAD, rows with "
                          "'{}' and '{}', rows with '{}', or .txt)",
                          file, config.context_column, config.question_column, config.text_column),
              "name it with `format`, and the columns with context_column, question_column, answers_column, "
              "text_column");
}

}  // namespace ctxc
