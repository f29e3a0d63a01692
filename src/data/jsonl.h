// Rows of a JSONL file, plain or gzip, one at a time; errors name file and line.
#pragma once
#include <functional>
#include <string>

#include "core/json.h"
#include "data/passage.h"

namespace ctxc {

/// What a reader does with rows it cannot use, and how many rows it takes.
struct ReadOptions {
  bool skip_bad_lines = false;

  int64_t bad_lines = 0;  ///< out: rows skipped
};

/// A row: the parsed object, where it stands ("file:12") and its line number.
struct JsonRow {
  const Json& object;
  std::string origin;
  int64_t line;
};

/// What a row reader answers.
enum class Reading { kGoOn, kStop };

/// Calls `row` for every line that is not blank. A line that is no JSON object, and every Error kInput that
/// `row` throws, is an error or is counted and skipped, as `options` says: `row` must not keep half of a bad
/// row.
void for_each_json_row(const std::string& path, ReadOptions& options,
                       const std::function<Reading(const JsonRow&)>& row);

/// The first line that is not blank ("" if there is none).
std::string first_line(const std::string& path);

/// Member `key` of a row as the list of answers: a string, a list of strings, or {"text": [...]} as in the
/// Hub's SQuAD.
std::vector<std::string> answers_at(const Json& object, const std::string& key, const std::string& origin);

using PassageSink = std::function<Reading(Passage&&)>;

}  // namespace ctxc
