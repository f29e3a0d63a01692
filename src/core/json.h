// Bounded wrapper over nlohmann-json: one place that parses, with limits and errors that name file, line and
// column.
#pragma once
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>

namespace ctxc {

using Json = nlohmann::json;                 ///< sorted keys: for reading (large vocabularies)
using OrderedJson = nlohmann::ordered_json;  ///< insertion order: for writing what people read

struct JsonLimits {
  size_t max_bytes = size_t{1} << 30;
  int max_depth = 128;
  bool unique_keys = false;  ///< a key that appears twice in an object is an error (else the last one counts)
};

/// Parses one JSON value that fills `text`. Throws Error kInput "origin:line:col: …" on anything else, on
/// text beyond the limits and on invalid UTF-8. `first_line` is the line number of the first line (JSONL
/// readers pass theirs).
Json parse_json(std::string_view text, const std::string& origin, int64_t first_line = 1,
                JsonLimits limits = {});
Json read_json_file(const std::string& path, JsonLimits limits = {});

/// value[key] as T, or Error kInput that names `origin`, the key and the types found and expected.
template <class T>
T json_at(const Json& object, const std::string& key, const std::string& origin);
/// The same, `fallback` where the key is absent or null.
template <class T>
T json_or(const Json& object, const std::string& key, T fallback, const std::string& origin);

[[noreturn]] void json_type_error(const Json& object, const std::string& key, const std::string& origin,
                                  const char* expected);

namespace detail {
template <class T>
constexpr const char* json_type_name() {
  if constexpr (std::is_same_v<T, bool>)
    return "true or false";
  else if constexpr (std::is_integral_v<T>)
    return "an integer";
  else if constexpr (std::is_floating_point_v<T>)
    return "a number";
  else if constexpr (std::is_same_v<T, std::string>)
    return "a string";
  else
    return "another type";
}
template <class T>
bool json_holds(const Json& value) {
  if constexpr (std::is_same_v<T, bool>)
    return value.is_boolean();
  else if constexpr (std::is_integral_v<T>)
    return value.is_number_unsigned() ? std::in_range<T>(value.get<uint64_t>())
                                      : value.is_number_integer() && std::in_range<T>(value.get<int64_t>());
  else if constexpr (std::is_floating_point_v<T>)
    return value.is_number();
  else if constexpr (std::is_same_v<T, std::string>)
    return value.is_string();
  else
    return true;
}
}  // namespace detail

template <class T>
T json_at(const Json& object, const std::string& key, const std::string& origin) {
  if (!object.is_object() || !object.contains(key) || !detail::json_holds<T>(object.at(key)))
    json_type_error(object, key, origin, detail::json_type_name<T>());
  return object.at(key).get<T>();
}

template <class T>
T json_or(const Json& object, const std::string& key, T fallback, const std::string& origin) {
  if (!object.is_object() || !object.contains(key) || object.at(key).is_null()) return fallback;
  return json_at<T>(object, key, origin);
}

}  // namespace ctxc
