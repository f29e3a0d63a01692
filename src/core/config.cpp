#include "core/config.h"

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "core/error.h"
#include "core/text.h"
#include "core/yaml_text.h"

namespace ctxc {
namespace {

template <class T>
struct is_vector : std::false_type {};
template <class T>
struct is_vector<std::vector<T>> : std::true_type {};
template <class T>
struct is_optional : std::false_type {};
template <class T>
struct is_optional<std::optional<T>> : std::true_type {};

template <class T>
constexpr const char* type_name() {
  if constexpr (std::is_same_v<T, bool>) return "true or false";
  if constexpr (std::is_same_v<T, int64_t>) return "an integer";
  if constexpr (std::is_same_v<T, double>) return "a number";
  if constexpr (std::is_same_v<T, std::string>) return "a string";
  if constexpr (std::is_same_v<T, std::vector<int64_t>>) return "a list of integers";
  if constexpr (std::is_same_v<T, std::vector<double>>) return "a list of numbers";
  if constexpr (std::is_same_v<T, std::vector<std::string>>) return "a list of strings";
  if constexpr (is_optional<T>::value) return type_name<typename T::value_type>();
  return "any value";
}

/// A value as messages show it: "'abc'", "null", "a list", "a map".
std::string found(const Yaml& node) {
  switch (node.kind()) {
    case Yaml::Kind::kNull:
      return "null";
    case Yaml::Kind::kList:
      return "a list";
    case Yaml::Kind::kMap:
      return "a map";
    case Yaml::Kind::kScalar:
      break;
  }
  constexpr size_t kShown = 60;
  const std::string& text = node.scalar();
  size_t end = std::min(text.size(), kShown);
  while (end < text.size() && end > 0 && (text[end] & 0xC0) == 0x80) --end;  // not within a character
  const std::string shown = text.substr(0, end) + (end < text.size() ? "…" : "");
  return fmt::format("'{}'{}", shown, node.quoted() ? " in quotes" : "");
}

[[noreturn]] void wrong_value(const Yaml& node, const FieldSpec& spec, const std::string& path,
                              std::string hint = "") {
  throw Error(ErrorKind::kUsage,
              fmt::format("{}: wrong value of {} (found {}, expected {})", node.where(), path, found(node),
                          spec.expected()),
              std::move(hint));
}

void check_range(double value, const Yaml& node, const FieldSpec& spec, const std::string& path) {
  const bool low = spec.open_min ? value > spec.min : value >= spec.min;
  const bool high = spec.open_max ? value < spec.max : value <= spec.max;
  if (!low || !high) wrong_value(node, spec, path);
}

void read_value(bool& value, const Yaml& node, const FieldSpec& spec, const std::string& path) {
  const auto read = node.quoted() ? std::nullopt : yaml_bool(node.scalar());
  if (!read) wrong_value(node, spec, path);
  value = *read;
}

void read_value(int64_t& value, const Yaml& node, const FieldSpec& spec, const std::string& path) {
  const auto read = node.quoted() ? std::nullopt : yaml_integer(node.scalar());
  if (!read) wrong_value(node, spec, path);
  check_range(static_cast<double>(*read), node, spec, path);
  value = *read;
}

void read_value(double& value, const Yaml& node, const FieldSpec& spec, const std::string& path) {
  const auto read = node.quoted() ? std::nullopt : yaml_number(node.scalar());
  if (!read) wrong_value(node, spec, path);
  check_range(*read, node, spec, path);
  value = *read;
}

void read_value(std::string& value, const Yaml& node, const FieldSpec& spec, const std::string& path) {
  if (node.kind() != Yaml::Kind::kScalar)
    wrong_value(node, spec, path, node.is_null() ? "write \"\" for an empty text" : "");
  const auto& choices = spec.choices;
  if (!choices.empty() && std::find(choices.begin(), choices.end(), node.scalar()) == choices.end())
    wrong_value(node, spec, path, did_you_mean(node.scalar(), choices));
  value = node.scalar();
}

template <class T>
void read_value(std::vector<T>& value, const Yaml& node, const FieldSpec& spec, const std::string& path) {
  if (node.kind() != Yaml::Kind::kList) wrong_value(node, spec, path, "write [a, b]; [] is an empty list");
  std::vector<T> items(node.items().size());
  FieldSpec item = spec;
  item.type = type_name<T>();
  for (size_t i = 0; i < items.size(); ++i)
    read_value(items[i], node.items()[i], item, fmt::format("{}.{}", path, i));
  value = std::move(items);
}

template <class T>
void read_value(std::optional<T>& value, const Yaml& node, const FieldSpec& spec, const std::string& path) {
  if (node.is_null()) {
    value.reset();
    return;
  }
  T read{};
  read_value(read, node, spec, path);
  value = std::move(read);
}

std::string text_of(bool value) {
  return value ? "true" : "false";
}
std::string text_of(int64_t value) {
  return fmt::to_string(value);
}
std::string text_of(double value) {
  return yaml_string(value);
}
std::string text_of(const std::string& value) {
  return yaml_string(value);
}
template <class T>
std::string text_of(const std::vector<T>& value) {
  std::vector<std::string> items;
  for (const T& item : value) items.push_back(text_of(item));
  return fmt::format("[{}]", join(items, ", "));
}
template <class T>
std::string text_of(const std::optional<T>& value) {
  return value ? text_of(*value) : "null";
}

std::string range_text(const FieldSpec& spec) {
  const std::string lowest = yaml_string(spec.min), highest = yaml_string(spec.max);
  const bool low = std::isfinite(spec.min), high = std::isfinite(spec.max);
  if (low && high && !spec.open_min && !spec.open_max) return fmt::format(" from {} to {}", lowest, highest);
  std::vector<std::string> parts;
  if (low) parts.push_back((spec.open_min ? "above " : "at least ") + lowest);
  if (high) parts.push_back((spec.open_max ? "below " : "at most ") + highest);
  return parts.empty() ? "" : ", " + join(parts, " and ");
}

}  // namespace

std::string FieldSpec::expected() const {
  if (!choices.empty())
    return (type.starts_with("a list") ? type + ", each " : "") + "one of: " + join(choices, ", ");
  return type + range_text(*this);
}

Field& Field::min(double lowest) {
  spec_.min = lowest;
  return *this;
}
Field& Field::max(double highest) {
  spec_.max = highest;
  return *this;
}
Field& Field::above(double bound) {
  spec_.open_min = true;
  return min(bound);
}
Field& Field::below(double bound) {
  spec_.open_max = true;
  return max(bound);
}
Field& Field::one_of(std::vector<std::string> values) {
  spec_.choices = std::move(values);
  return *this;
}
Field& Field::unit(std::string unit) {
  spec_.unit = std::move(unit);
  return *this;
}
Field& Field::required() {
  spec_.required = true;
  return *this;
}

Field& Fields::add(const std::string& key, const std::string& help, const std::string& type) {
  for (const auto& field : fields_)
    CTXC_CHECK(field->spec().key != key, ErrorKind::kInternal, "",
               "configuration key '{}' is described twice", key);
  Field& field = *fields_.emplace_back(std::make_unique<Field>());
  field.spec_.key = key;
  field.spec_.help = help;
  field.spec_.type = type;
  return field;
}

template <class T>
Field& Fields::add_value(const std::string& key, T& value, const std::string& help) {
  Field& field = add(key, help, type_name<T>());
  field.spec_.read = [&value](const Yaml& node, const FieldSpec& spec, const std::string& path) {
    read_value(value, node, spec, path);
  };
  field.spec_.write = [&value](int) { return " " + text_of(value) + "\n"; };
  return field;
}

#define CTXC_FIELD(TYPE)                                                                    \
  Field& Fields::operator()(const std::string& key, TYPE& value, const std::string& help) { \
    return add_value(key, value, help);                                                     \
  }
CTXC_FIELD(bool)
CTXC_FIELD(int64_t)
CTXC_FIELD(double)
CTXC_FIELD(std::string)
CTXC_FIELD(std::vector<std::string>)
CTXC_FIELD(std::vector<int64_t>)
CTXC_FIELD(std::vector<double>)
CTXC_FIELD(std::optional<bool>)
CTXC_FIELD(std::optional<int64_t>)
CTXC_FIELD(std::optional<double>)
CTXC_FIELD(std::optional<std::string>)
#undef CTXC_FIELD

Field& Fields::operator()(const std::string& key, Yaml& value, const std::string& help) {
  Field& field = add(key, help, type_name<Yaml>());
  field.spec_.read = [&value](const Yaml& node, const FieldSpec&, const std::string&) { value = node; };
  field.spec_.write = [&value](int indent) { return yaml_block(value, indent); };
  return field;
}

Field& Fields::add_section(const std::string& key, const std::string& help,
                           std::function<void(Fields&)> describe) {
  Field& field = add(key, help, "a section");
  field.spec_.section = std::move(describe);
  return field;
}

Field& Fields::add_list(const std::string& key, const std::string& help, ListAccess access) {
  Field& field = add(key, help, "a list of sections");
  field.spec_.list = std::move(access);
  return field;
}

namespace {

/// Reads and collects every problem instead of stopping at the first.
class Reader {
 public:
  void read(const Yaml& node, const Fields& fields, const std::string& path,
            const std::vector<std::string>& extra_keys) {
    if (!node.is_null() && node.kind() != Yaml::Kind::kMap) {
      problem(fmt::format("{}: wrong value of {} (found {}, expected a section: key: value lines)",
                          node.where(), path.empty() ? "the configuration" : path, found(node)));
      return;
    }
    check_unknown(node, fields, path, extra_keys);
    for (const auto& field : fields.all()) {
      const FieldSpec& spec = field->spec();
      const std::string dotted = path.empty() ? spec.key : path + "." + spec.key;
      const Yaml* value = node.find(spec.key);
      if (value) {
        read_field(*value, spec, dotted);
      } else if (spec.required) {
        problem(fmt::format("{}: key {} is missing (expected {})", node.where(), dotted, spec.expected()),
                spec.help);
      }
    }
  }

  void finish() const {
    if (problems_.empty()) return;
    if (problems_.size() == 1) throw Error(ErrorKind::kUsage, problems_[0].first, problems_[0].second);
    std::string text = fmt::format("{} problems in the configuration", problems_.size());
    for (const auto& [message, hint] : problems_)
      text += fmt::format("\n  {}{}", message, hint.empty() ? "" : "; " + hint);
    throw Error(ErrorKind::kUsage, text);
  }

 private:
  void problem(std::string message, std::string hint = "") {
    problems_.emplace_back(std::move(message), std::move(hint));
  }

  void check_unknown(const Yaml& node, const Fields& fields, const std::string& path,
                     const std::vector<std::string>& extra_keys) {
    std::vector<std::string> known = extra_keys;
    for (const auto& field : fields.all()) known.push_back(field->spec().key);
    for (const auto& [key, value] : node.entries()) {
      if (std::find(known.begin(), known.end(), key) != known.end()) continue;
      std::string hint = did_you_mean(key, known);
      if (hint.empty()) hint = "known keys here: " + join(known, ", ");
      problem(fmt::format("{}: unknown key '{}'", node.where_key(key), path.empty() ? key : path + "." + key),
              hint);
    }
  }

  void read_field(const Yaml& value, const FieldSpec& spec, const std::string& dotted) {
    if (spec.section) {
      Fields below;
      spec.section(below);
      read(value, below, dotted, {});
    } else if (spec.list) {
      if (value.kind() != Yaml::Kind::kList) {
        problem(fmt::format("{}: wrong value of {} (found {}, expected a list of sections)", value.where(),
                            dotted, found(value)),
                "write one '- key: value' block for each item");
        return;
      }
      spec.list->assign(value.items().size());
      for (size_t i = 0; i < value.items().size(); ++i) {
        Fields below;
        spec.list->describe_at(i, below);
        read(value.items()[i], below, fmt::format("{}.{}", dotted, i), {});
      }
    } else {
      try {
        spec.read(value, spec, dotted);
      } catch (const Error& error) {
        problem(error.what(), error.hint());
      }
    }
  }

  std::vector<std::pair<std::string, std::string>> problems_;  ///< message and hint
};

}  // namespace

void read_fields(const Yaml& node, Fields& fields, const std::string& path,
                 const std::vector<std::string>& extra_keys) {
  Reader reader;
  reader.read(node, fields, path, extra_keys);
  reader.finish();
}

}  // namespace ctxc
