// Bounded wrapper over yaml-cpp: a tree of values that remember file:line:column. No aliases, anchors or
// tags; limits on bytes, depth and nodes; duplicate keys are an error. yaml-cpp itself appears only in
// yaml.cpp.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace ctxc {

struct YamlLimits {
  size_t max_bytes = 4 << 20;
  int max_depth = 32;
  size_t max_nodes = 100'000;
};

class YamlBuilder;

/// A node of a parsed document. Cheap to copy (shared, immutable: with(), over() and without() make new
/// ones).
class Yaml {
 public:
  enum class Kind { kNull, kScalar, kList, kMap };

  Yaml();  ///< null, origin "<none>"
  /// Error kUsage "origin:line:column: …" on anything that is not one document of plain YAML within the
  /// limits.
  static Yaml parse(std::string_view text, const std::string& origin, YamlLimits limits = {});
  static Yaml load(const std::string& path, YamlLimits limits = {});

  Kind kind() const;
  bool is_null() const { return kind() == Kind::kNull; }
  std::string where() const;               ///< "file:line:column" or "override 'train.lr=x'"
  const std::string& scalar() const;       ///< text of a scalar
  bool quoted() const;                     ///< the scalar was quoted: a string, whatever it looks like
  const std::vector<Yaml>& items() const;  ///< of a list
  const std::vector<std::pair<std::string, Yaml>>& entries() const;  ///< of a map, in file order
  const Yaml* find(std::string_view key) const;                      ///< of a map; nullptr if absent
  std::string where_key(std::string_view key) const;                 ///< position of the key itself

  /// This document with `dotted.key` set to `value`: maps on the way are made, list items are numbers (the
  /// number after the last appends). Error kUsage, at value's where(), if a scalar stands in the way.
  Yaml with(std::string_view dotted_key, const Yaml& value) const;
  /// This document over `parent`: maps merge key by key, anything else of this one takes the place of the
  /// parent's. Every value and key keeps its own position.
  Yaml over(const Yaml& parent) const;
  /// This map without `key`, if it has it.
  Yaml without(std::string_view key) const;

 private:
  friend class YamlBuilder;
  friend std::pair<std::string, Yaml> parse_override(const std::string& text);
  struct Node;
  static Yaml parse_text(std::string_view text, const std::string& origin, YamlLimits limits, bool positions);
  std::shared_ptr<const Node> node_;
};

/// "a.b=VALUE" with VALUE read as YAML. Error kUsage if there is no '=' or VALUE is not YAML.
std::pair<std::string, Yaml> parse_override(const std::string& text);

}  // namespace ctxc
