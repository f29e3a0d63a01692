#include "core/json.h"

#include <algorithm>
#include <set>
#include <vector>

#include "core/error.h"
#include "core/file.h"

namespace ctxc {
namespace {

/// "origin:line:column" of the byte at `offset`; columns count characters, not bytes.
std::string position(std::string_view text, size_t offset, const std::string& origin, int64_t first_line) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const size_t newline = before.rfind('\n');
  const std::string_view line = newline == std::string_view::npos ? before : before.substr(newline + 1);
  const auto column = 1 + std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xC0) != 0x80; });
  return fmt::format("{}:{}:{}", origin, first_line + std::count(before.begin(), before.end(), '\n'), column);
}

/// The parser itself does not recurse, but whoever walks the value does: so depth is bounded before anything
/// is built.
void check_depth(std::string_view text, const std::string& origin, int64_t first_line, int max_depth) {
  int depth = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '"') {
      for (++i; i < text.size() && text[i] != '"'; ++i)
        if (text[i] == '\\') ++i;
    } else if (c == '[' || c == '{') {
      CTXC_CHECK(++depth <= max_depth, ErrorKind::kInput, "",
                 "{}: JSON is nested too deeply (expected at most {} levels)",
                 position(text, i, origin, first_line), max_depth);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

/// What nlohmann says, without its prefix, and with the text it quotes cut to a readable length.
std::string reason(std::string what) {
  const size_t column = what.find("column ");
  const size_t start = column == std::string::npos ? what.find("] ") : what.find(": ", column);
  if (start != std::string::npos) what.erase(0, start + 2);
  constexpr std::string_view kRead = "last read: '";
  constexpr size_t kQuoted = 40;
  const size_t quote = what.find(kRead), end = what.rfind('\'');
  if (quote != std::string::npos && end > quote + kRead.size() + kQuoted)
    what.replace(quote + kRead.size(), end - quote - kRead.size() - kQuoted, "…");
  // The quoted text may be what is not UTF-8.
  const std::string_view text = what;
  std::string clean;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text.substr(i).starts_with("…")) {
      clean += "…";
      i += 2;
    } else {
      clean += static_cast<unsigned char>(text[i]) < 0x80 ? text[i] : '?';
    }
  }
  return clean;
}

Json parse_unique(std::string_view text, const std::string& origin) {
  std::vector<std::set<std::string>> keys;
  const auto callback = [&](int, Json::parse_event_t event, Json& parsed) {
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      CTXC_CHECK(keys.back().insert(key).second, ErrorKind::kInput, "", "{}: key '{}' appears twice", origin,
                 key);
    }
    return true;
  };
  return Json::parse(text.begin(), text.end(), callback);
}

}  // namespace

Json parse_json(std::string_view text, const std::string& origin, int64_t first_line, JsonLimits limits) {
  CTXC_CHECK(text.size() <= limits.max_bytes, ErrorKind::kInput, "",
             "{}: JSON text is too long (found {} bytes, expected at most {})", origin, text.size(),
             limits.max_bytes);
  check_depth(text, origin, first_line, limits.max_depth);
  try {
    return limits.unique_keys ? parse_unique(text, origin) : Json::parse(text.begin(), text.end());
  } catch (const Json::parse_error& error) {
    const size_t byte = error.byte > 0 ? error.byte - 1 : 0;
    const bool ended = byte >= text.size();
    throw Error(
        ErrorKind::kInput,
        fmt::format("{}: not valid JSON: {}", position(text, byte, origin, first_line), reason(error.what())),
        ended ? "the text ends too early: is the file complete?" : "");
  } catch (
      const Json::exception& error) {  // a number beyond double; its place is where its text first stands
    const std::string what = reason(error.what());
    const size_t open = what.find('\''), close = what.rfind('\'');
    const size_t at = open < close ? text.find(what.substr(open + 1, close - open - 1)) : 0;
    throw Error(ErrorKind::kInput,
                fmt::format("{}: not valid JSON: {}",
                            position(text, at == text.npos ? 0 : at, origin, first_line), what));
  }
}

Json read_json_file(const std::string& path, JsonLimits limits) {
  const MappedFile file(path);
  return parse_json(file.text(), path, 1, limits);
}

void json_type_error(const Json& object, const std::string& key, const std::string& origin,
                     const char* expected) {
  if (!object.is_object())
    throw Error(ErrorKind::kInput,
                fmt::format("{}: wrong type (found {}, expected an object with the key '{}')", origin,
                            object.type_name(), key));
  const auto found = object.find(key);
  if (found == object.end())
    throw Error(ErrorKind::kInput,
                fmt::format("{}: key '{}' is missing (expected {})", origin, key, expected));
  std::string value = found->dump(-1, ' ', false, Json::error_handler_t::replace);
  if (value.size() > 60) value = fmt::format("{} of {} bytes", found->type_name(), value.size());
  throw Error(ErrorKind::kInput, fmt::format("{}: key '{}' has a wrong value (found {}, expected {})", origin,
                                             key, value, expected));
}

}  // namespace ctxc
