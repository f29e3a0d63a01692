#include "core/yaml_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <vector>

namespace ctxc {
namespace {

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

/// Without a leading '+' and without "_" between digits; nothing if a "_" stands elsewhere.
std::optional<std::string> without_separators(std::string_view plain) {
  if (plain.starts_with("+-")) return std::nullopt;
  if (plain.starts_with('+')) plain.remove_prefix(1);
  std::string text;
  for (size_t i = 0; i < plain.size(); ++i) {
    if (plain[i] != '_') {
      text += plain[i];
    } else if (i == 0 || i + 1 == plain.size() || !is_digit(plain[i - 1]) || !is_digit(plain[i + 1])) {
      return std::nullopt;
    }
  }
  return text;
}

bool is_plain_word(std::string_view text) {
  constexpr std::string_view kInner = "_-+./@=^~ ";
  if (text.empty() || text.back() == ' ') return false;
  const char first = text.front();
  if (!is_letter(first) && !is_digit(first) && first != '_' && first != '/' && !text.starts_with("./") &&
      !text.starts_with("../"))
    return false;
  return std::all_of(text.begin(), text.end(), [&](char c) {
    return is_letter(c) || is_digit(c) || kInner.find(c) != std::string_view::npos;
  });
}

/// Words that this or another YAML reader takes for something else than a string.
bool is_reserved_word(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  for (const char* word : {"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
    if (lower == word) return true;
  return false;
}

std::string quote(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (c == '\t') {
      quoted += "\\t";
    } else if (byte < 0x20 || byte == 0x7F) {
      quoted += fmt::format("\\x{:02x}", byte);
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

std::string scalar_text(const Yaml& node) {
  const std::string& text = node.scalar();
  if (!node.quoted() && (yaml_bool(text) || yaml_number(text))) return text;
  return yaml_string(text);
}

bool is_flat(const Yaml& node) {
  return node.kind() == Yaml::Kind::kNull || node.kind() == Yaml::Kind::kScalar;
}

std::string map_block(const Yaml& node, int indent) {
  std::string text;
  for (const auto& [key, value] : node.entries())
    text += fmt::format("{:{}}{}:{}", "", indent, yaml_string(key), yaml_block(value, indent));
  return text;
}

}  // namespace

std::optional<bool> yaml_bool(std::string_view plain) {
  if (plain == "true" || plain == "True" || plain == "TRUE") return true;
  if (plain == "false" || plain == "False" || plain == "FALSE") return false;
  return std::nullopt;
}

std::optional<int64_t> yaml_integer(std::string_view plain) {
  const auto text = without_separators(plain);
  if (!text) return std::nullopt;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error == std::errc() && end == text->data() + text->size()) return value;
  constexpr double kExact = 9007199254740992;  // 2^53: up to here doubles hold every integer
  const auto number = yaml_number(plain);
  if (error == std::errc::result_out_of_range || !number || *number != std::floor(*number) ||
      std::abs(*number) > kExact)
    return std::nullopt;
  return static_cast<int64_t>(*number);
}

std::optional<double> yaml_number(std::string_view plain) {
  if (plain == ".inf" || plain == "+.inf") return std::numeric_limits<double>::infinity();
  if (plain == "-.inf") return -std::numeric_limits<double>::infinity();
  const auto text = without_separators(plain);
  if (!text || text->empty()) return std::nullopt;
  const size_t first = text->front() == '-' ? 1 : 0;  // from_chars would also take "inf" and "nan"
  if (first == text->size() || (!is_digit((*text)[first]) && (*text)[first] != '.')) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size()) return std::nullopt;
  return value;
}

std::string yaml_string(std::string_view text) {
  const bool plain = is_plain_word(text) && !is_reserved_word(text) && !yaml_number(text);
  return plain ? std::string(text) : quote(text);
}

std::string yaml_string(double value) {
  if (std::isinf(value)) return value > 0 ? ".inf" : "-.inf";
  return fmt::format("{}", value);
}

std::string yaml_flow(const Yaml& node) {
  std::vector<std::string> parts;
  switch (node.kind()) {
    case Yaml::Kind::kNull:
      return "null";
    case Yaml::Kind::kScalar:
      return scalar_text(node);
    case Yaml::Kind::kList:
      for (const Yaml& item : node.items()) parts.push_back(yaml_flow(item));
      return fmt::format("[{}]", fmt::join(parts, ", "));
    case Yaml::Kind::kMap:
      for (const auto& [key, value] : node.entries())
        parts.push_back(fmt::format("{}: {}", yaml_string(key), yaml_flow(value)));
      return fmt::format("{{{}}}", fmt::join(parts, ", "));
  }
  return "";
}

std::string yaml_block(const Yaml& node, int indent) {
  if (node.kind() == Yaml::Kind::kMap && !node.entries().empty()) return "\n" + map_block(node, indent + 2);
  const bool nested =
      node.kind() == Yaml::Kind::kList &&
      std::any_of(node.items().begin(), node.items().end(), [](const Yaml& item) { return !is_flat(item); });
  if (!nested) return " " + yaml_flow(node) + "\n";
  std::string text = "\n";
  for (const Yaml& item : node.items()) {
    if (item.kind() == Yaml::Kind::kMap && !item.entries().empty()) {
      std::string lines = map_block(item, indent + 4);
      lines[indent + 2] = '-';
      text += lines;
    } else {
      text += fmt::format("{:{}}- {}\n", "", indent + 2, yaml_flow(item));
    }
  }
  return text;
}

}  // namespace ctxc
