// Configuration structs. Each has ONE function that says everything about its keys:
//
//   struct TrainConfig {
//     double lr = 1e-4;
//     std::string schedule = "linear";
//     std::vector<DataSet> data;                    // DataSet has its own describe()
//     void describe(Fields& f) {
//       f("lr", lr, "peak learning rate").above(0);
//       f("schedule", schedule, "decay after warm-up").one_of({"linear", "cosine", "constant"});
//       f.list("data", data, "what to train on");
//     }
//   };
//
// From it come parsing (strict: unknown keys, wrong types and values out of range are Error kUsage with
// position, the nearest key and the expected range), the resolved dump, --help KEY and the hash. Defaults are
// the initialisers.
#pragma once
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/yaml.h"

namespace ctxc {

class Fields;

/// How to reach the items of a list of structs.
struct ListAccess {
  std::function<void(Fields&)> describe_default;     ///< keys of an item with its defaults, for help
  std::function<void(size_t)> assign;                ///< that many items with defaults
  std::function<void(size_t, Fields&)> describe_at;  ///< keys of one item there is
  std::function<size_t()> size;
};

/// What is known about one key.
struct FieldSpec {
  std::string key, help, type, unit;  ///< type: "an integer", "a list of strings"
  double min = -std::numeric_limits<double>::infinity(), max = std::numeric_limits<double>::infinity();
  bool open_min = false, open_max = false, required = false;
  std::vector<std::string> choices;
  /// Sets the member from a value, or Error kUsage; `path` is the key's dotted name. Empty for sections and
  /// lists.
  std::function<void(const Yaml&, const FieldSpec&, const std::string& path)> read;
  std::function<std::string(int indent)> write;  ///< YAML after "key:" of the value now, with its line end
  std::function<void(Fields&)> section;          ///< describe() of a nested struct, else empty
  std::optional<ListAccess> list;                ///< of a list of structs
  /// "an integer from 1 to 8", "one of: a, b"
  std::string expected() const;
};

/// One key. The setters narrow what it accepts (every item, of a list); they return *this so that they chain.
class Field {
 public:
  Field& min(double lowest);   ///< value >= lowest
  Field& max(double highest);  ///< value <= highest
  Field& above(double bound);  ///< value > bound
  Field& below(double bound);  ///< value < bound
  Field& one_of(std::vector<std::string> values);
  Field& unit(std::string unit);  ///< shown in help: "tokens", "seconds"
  Field& required();              ///< an absent key is an error
  const FieldSpec& spec() const { return spec_; }

 private:
  friend class Fields;
  FieldSpec spec_;
};

/// Collects the keys of one struct. Supported members: bool, int64_t, double, std::string, std::vector of the
/// last three, std::optional of the first four (null = absent), nested structs and std::vector of structs
/// with describe(), and Yaml (a raw sub-tree, checked by whoever reads it later). The members must outlive
/// the Fields.
class Fields {
 public:
  Field& operator()(const std::string& key, bool& value, const std::string& help);
  Field& operator()(const std::string& key, int64_t& value, const std::string& help);
  Field& operator()(const std::string& key, double& value, const std::string& help);
  Field& operator()(const std::string& key, std::string& value, const std::string& help);
  Field& operator()(const std::string& key, std::vector<std::string>& value, const std::string& help);
  Field& operator()(const std::string& key, std::vector<int64_t>& value, const std::string& help);
  Field& operator()(const std::string& key, std::vector<double>& value, const std::string& help);
  Field& operator()(const std::string& key, std::optional<bool>& value, const std::string& help);
  Field& operator()(const std::string& key, std::optional<int64_t>& value, const std::string& help);
  Field& operator()(const std::string& key, std::optional<double>& value, const std::string& help);
  Field& operator()(const std::string& key, std::optional<std::string>& value, const std::string& help);
  Field& operator()(const std::string& key, Yaml& value, const std::string& help);
  template <class T>
  Field& section(const std::string& key, T& value, const std::string& help) {
    return add_section(key, help, [&value](Fields& fields) { value.describe(fields); });
  }
  template <class T>
  Field& list(const std::string& key, std::vector<T>& items, const std::string& help) {
    return add_list(key, help,
                    {.describe_default =
                         [](Fields& fields) {
                           static thread_local T item;  // outlives the Fields that point into it
                           item = T{};
                           item.describe(fields);
                         },
                     .assign = [&items](size_t count) { items.assign(count, T{}); },
                     .describe_at = [&items](size_t index, Fields& fields) { items[index].describe(fields); },
                     .size = [&items] { return items.size(); }});
  }

  const std::vector<std::unique_ptr<Field>>& all() const { return fields_; }

 private:
  template <class T>
  Field& add_value(const std::string& key, T& value, const std::string& help);
  Field& add(const std::string& key, const std::string& help, const std::string& type);
  Field& add_section(const std::string& key, const std::string& help, std::function<void(Fields&)> describe);
  Field& add_list(const std::string& key, const std::string& help, ListAccess access);
  std::vector<std::unique_ptr<Field>> fields_;
};

/// Reads `node` (a map, or null for "all defaults") into `fields`. `path` is the dotted prefix used in
/// messages. `extra_keys` are keys that somebody else reads (e.g. `name` of a method's flat section). One
/// Error kUsage names every problem.
void read_fields(const Yaml& node, Fields& fields, const std::string& path,
                 const std::vector<std::string>& extra_keys = {});
/// The values as YAML, keys in described order, nested sections indented; ends with a newline. "" without
/// fields.
std::string dump_fields(const Fields& fields, int indent = 0);
/// Type, range, unit, default and help of one dotted key, or of all keys below it ("" = all). `prefix`
/// (dotted) is put before the keys shown, and may stand before `dotted_key`. Error kUsage with the nearest
/// key if there is none.
std::string help_for(const Fields& fields, const std::string& dotted_key, const std::string& prefix = "");

template <class T>
void read_config(const Yaml& node, T& config, const std::string& path,
                 const std::vector<std::string>& extra_keys = {}) {
  Fields fields;
  config.describe(fields);
  read_fields(node, fields, path, extra_keys);
}
template <class T>
std::string dump_config(T config, int indent = 0) {
  Fields fields;
  config.describe(fields);
  return dump_fields(fields, indent);
}

}  // namespace ctxc
