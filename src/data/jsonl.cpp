#include "data/jsonl.h"

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"

namespace ctxc {
namespace {

/// Leaves for_each_line early.
struct StopReading {};

std::vector<std::string> string_list(const Json& value, const std::string& key, const std::string& origin) {
  std::vector<std::string> result;
  for (const Json& item : value) {
    CTXC_CHECK(item.is_string(), ErrorKind::kInput, "",
               "{}: '{}' holds something that is no string (found {})", origin, key, item.type_name());
    result.push_back(item.get<std::string>());
  }
  return result;
}

}  // namespace

void for_each_json_row(const std::string& path, ReadOptions& options,
                       const std::function<Reading(const JsonRow&)>& row) {
  const auto read = [&](std::string_view text, int64_t number) {
    if (trim(text).empty()) return;
    try {
      const Json object = parse_json(text, path, number);
      const std::string origin = fmt::format("{}:{}", path, number);
      CTXC_CHECK(object.is_object(), ErrorKind::kInput, "", "{}: the line is no JSON object (found {})",
                 origin, object.type_name());
      if (row({object, origin, number}) == Reading::kStop) throw StopReading();
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kInput) throw;
      if (!options.skip_bad_lines)
        throw Error(
            error.kind(), error.what(),
            error.hint().empty() ? "on_bad_line: skip leaves such lines out and counts them" : error.hint());
      ++options.bad_lines;
    }
  };
  try {
    for_each_line(path, read);
  } catch (const StopReading&) {
  }
}

std::string first_line(const std::string& path) {
  std::string result;
  try {
    for_each_line(path, [&](std::string_view text, int64_t) {
      if (trim(text).empty()) return;
      result = text;
      throw StopReading();
    });
  } catch (const StopReading&) {
  }
  return result;
}

std::vector<std::string> answers_at(const Json& object, const std::string& key, const std::string& origin) {
  CTXC_CHECK(object.contains(key), ErrorKind::kInput, "", "{}: '{}' is missing", origin, key);
  const Json& value = object.at(key);
  if (value.is_string()) return {value.get<std::string>()};
  if (value.is_array()) return string_list(value, key, origin);
  if (value.is_object() && value.contains("text") && value.at("text").is_array())
    return string_list(value.at("text"), key + ".text", origin);
  throw Error(ErrorKind::kInput,
              fmt::format("{}: '{}' has the wrong type (found {}, expected a string or a list of "
                          "strings)",
                          origin, key, value.type_name()));
}

}  // namespace ctxc
