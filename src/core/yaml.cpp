#include "core/yaml.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "core/text.h"

namespace ctxc {

struct Yaml::Node {
  Kind kind = Kind::kNull;
  std::shared_ptr<const std::string> origin = nullptr;
  int line = 0, column = 0;  ///< from 1; 0 = the origin says it all
  bool quoted = false;
  std::string scalar = {};
  std::vector<Yaml> items = {};
  std::vector<std::pair<std::string, Yaml>> entries = {};
  /// Where an entry's key stands; line 0 = where its value does.
  struct KeyMark {
    std::shared_ptr<const std::string> origin = nullptr;
    int line = 0, column = 0;
  };
  std::vector<KeyMark> key_marks = {};

  std::string where(int at_line, int at_column) const {
    return at_line > 0 ? fmt::format("{}:{}:{}", *origin, at_line, at_column) : *origin;
  }
};

namespace {

/// The offset of the first byte that is not UTF-8 or a control character YAML does not allow; npos if there
/// is none.
size_t find_bad_byte(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    if (lead < 0x80) {
      if ((lead < 0x20 && lead != '\t' && lead != '\n' && lead != '\r') || lead == 0x7F) return i;
      ++i;
      continue;
    }
    const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
    if (lead < 0xC2 || lead > 0xF4 || i + length > text.size()) return i;
    uint32_t code = lead & (0x7F >> length);
    for (size_t k = 1; k < length; ++k) {
      const auto next = static_cast<unsigned char>(text[i + k]);
      if ((next & 0xC0) != 0x80) return i;
      code = code << 6 | (next & 0x3F);
    }
    const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
    if (overlong || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return i;
    i += length;
  }
  return std::string_view::npos;
}

}  // namespace

/// Builds the tree from yaml-cpp's events, which arrive before the parser recurses: so the limits hold.
class YamlBuilder : public YAML::EventHandler {
 public:
  YamlBuilder(std::string origin, const YamlLimits& limits, bool positions)
      : origin_(std::make_shared<const std::string>(std::move(origin))),
        limits_(limits),
        positions_(positions) {}

  Yaml root() {
    if (!root_.node_) root_ = finish(std::make_shared<Yaml::Node>(Yaml::Node{.origin = origin_}));
    return root_;
  }

  void OnDocumentStart(const YAML::Mark& mark) override {
    check(!started_, mark, "a second document begins here (expected one)");
    started_ = true;
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t) override {
    check(stack_.empty() || !awaits_key(), mark, "a key is missing (found null, expected text)");
    add(finish(node(mark, Yaml::Kind::kNull)));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    check(false, mark, "aliases (*name) are not allowed",
          "write the value out, or quote a text that begins with '*'");
  }
  void OnAnchor(const YAML::Mark& mark, const std::string& name) override {
    check(name.empty(), mark, "anchors (&name) are not allowed", "quote a text that begins with '&'");
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                const std::string& value) override {
    check_tag(mark, tag);
    if (!stack_.empty() && awaits_key()) {
      check(stack_.back().keys.insert(value).second, mark,
            fmt::format("key '{}' appears twice in this map", value));
      stack_.back().key = value;
      const auto [line, column] = position(mark);
      stack_.back().node->key_marks.push_back({origin_, line, column});
      return;
    }
    auto made = node(mark, Yaml::Kind::kScalar);
    made->scalar = value;
    made->quoted = tag == "!";
    add(finish(std::move(made)));
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {
    open(mark, tag, Yaml::Kind::kList);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {
    open(mark, tag, Yaml::Kind::kMap);
  }
  void OnMapEnd() override { close(); }

  /// Error kUsage at a position that yaml-cpp counts from 0.
  void check(bool good, const YAML::Mark& mark, const std::string& problem,
             const std::string& hint = "") const {
    if (good) return;
    const auto [line, column] = position(mark);
    throw Error(ErrorKind::kUsage,
                fmt::format("{}: {}", Yaml::Node{.origin = origin_}.where(line, column), problem), hint);
  }

 private:
  struct Open {
    std::shared_ptr<Yaml::Node> node;
    std::optional<std::string> key;  ///< of a map: the key whose value comes next
    std::set<std::string> keys;
  };

  std::pair<int, int> position(const YAML::Mark& mark) const {
    return positions_ ? std::pair(mark.line + 1, mark.column + 1) : std::pair(0, 0);
  }
  bool awaits_key() const { return stack_.back().node->kind == Yaml::Kind::kMap && !stack_.back().key; }
  void check_tag(const YAML::Mark& mark, const std::string& tag) const {
    check(tag.empty() || tag == "?" || tag == "!", mark,
          fmt::format("tags are not allowed (found '{}')", tag), "quote a text that begins with '!'");
  }
  std::shared_ptr<Yaml::Node> node(const YAML::Mark& mark, Yaml::Kind kind) {
    check(++nodes_ <= limits_.max_nodes, mark,
          fmt::format("too many values (expected at most {})", limits_.max_nodes));
    const auto [line, column] = position(mark);
    return std::make_shared<Yaml::Node>(
        Yaml::Node{.kind = kind, .origin = origin_, .line = line, .column = column});
  }
  Yaml finish(std::shared_ptr<const Yaml::Node> node) const {
    Yaml yaml;
    yaml.node_ = std::move(node);
    return yaml;
  }
  void add(Yaml value) {
    if (stack_.empty()) {
      root_ = std::move(value);
    } else if (Open& parent = stack_.back(); parent.node->kind == Yaml::Kind::kList) {
      parent.node->items.push_back(std::move(value));
    } else {
      parent.node->entries.emplace_back(std::move(*parent.key), std::move(value));
      parent.key.reset();
    }
  }
  void open(const YAML::Mark& mark, const std::string& tag, Yaml::Kind kind) {
    check_tag(mark, tag);
    check(stack_.empty() || !awaits_key(), mark, "a key must be text (found a list or map)",
          "is a bracket left open?");
    check(static_cast<int>(stack_.size()) < limits_.max_depth, mark,
          fmt::format("nested too deeply (expected at most {} levels)", limits_.max_depth));
    stack_.push_back({node(mark, kind), {}, {}});
  }
  void close() {
    Yaml done = finish(std::move(stack_.back().node));
    stack_.pop_back();
    add(std::move(done));
  }

  std::shared_ptr<const std::string> origin_;
  YamlLimits limits_;
  bool positions_, started_ = false;
  size_t nodes_ = 0;
  std::vector<Open> stack_;
  Yaml root_ = finish(nullptr);
};

Yaml Yaml::parse_text(std::string_view text, const std::string& origin, YamlLimits limits, bool positions) {
  CTXC_CHECK(text.size() <= limits.max_bytes, ErrorKind::kUsage, "",
             "{}: too long for a configuration (found {} bytes, expected at most {})", origin, text.size(),
             limits.max_bytes);
  YamlBuilder builder(origin, limits, positions);
  if (const size_t bad = find_bad_byte(text); bad != std::string_view::npos) {
    YAML::Mark mark;
    mark.line =
        static_cast<int>(std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(bad), '\n'));
    const size_t newline = text.substr(0, bad).rfind('\n');
    mark.column = static_cast<int>(newline == std::string_view::npos ? bad : bad - newline - 1);
    builder.check(
        false, mark,
        fmt::format("not UTF-8 text (found the byte 0x{:02x})", static_cast<unsigned char>(text[bad])));
  }
  // yaml-cpp takes a quote that is still open after the last line end for closed; not so if anything follows.
  std::istringstream stream{std::string(text) + (text.ends_with('\n') ? "#" : "")};
  try {
    YAML::Parser parser(stream);
    while (parser.HandleNextDocument(builder)) {
    }
  } catch (const YAML::Exception& error) {
    builder.check(false, error.mark, "not valid YAML: " + error.msg);
  }
  return builder.root();
}

Yaml::Yaml() : node_(std::make_shared<Node>(Node{.origin = std::make_shared<const std::string>("<none>")})) {}

Yaml Yaml::parse(std::string_view text, const std::string& origin, YamlLimits limits) {
  return parse_text(text, origin, limits, true);
}

Yaml Yaml::load(const std::string& path, YamlLimits limits) {
  const MappedFile file(path);
  return parse(file.text(), path, limits);
}

Yaml::Kind Yaml::kind() const {
  return node_->kind;
}
std::string Yaml::where() const {
  return node_->where(node_->line, node_->column);
}
const std::string& Yaml::scalar() const {
  return node_->scalar;
}
bool Yaml::quoted() const {
  return node_->quoted;
}
const std::vector<Yaml>& Yaml::items() const {
  return node_->items;
}
const std::vector<std::pair<std::string, Yaml>>& Yaml::entries() const {
  return node_->entries;
}

const Yaml* Yaml::find(std::string_view key) const {
  for (const auto& [name, value] : node_->entries)
    if (name == key) return &value;
  return nullptr;
}

std::string Yaml::where_key(std::string_view key) const {
  for (size_t i = 0; i < node_->entries.size(); ++i) {
    if (node_->entries[i].first != key) continue;
    const Node::KeyMark& mark = node_->key_marks[i];
    return mark.line > 0 ? Node{.origin = mark.origin}.where(mark.line, mark.column)
                         : node_->entries[i].second.where();
  }
  return where();
}

Yaml Yaml::with(std::string_view dotted_key, const Yaml& value) const {
  constexpr int kMaxParts = 32;
  CTXC_CHECK(std::count(dotted_key.begin(), dotted_key.end(), '.') < kMaxParts, ErrorKind::kUsage, "",
             "{}: the key has too many parts (expected at most {})", value.where(), kMaxParts);
  const size_t dot = dotted_key.find('.');
  const std::string key(dotted_key.substr(0, dot));
  CTXC_CHECK(!key.empty(), ErrorKind::kUsage, "write section.key=value", "{}: a part of the key is empty",
             value.where());
  const auto below = [&](const Yaml& old) {
    return dot == std::string_view::npos ? value : old.with(dotted_key.substr(dot + 1), value);
  };
  Yaml absent;
  absent.node_ = std::make_shared<Node>(Node{.origin = value.node_->origin});
  auto copy = std::make_shared<Node>(*node_);
  size_t index = 0;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), index);
  const bool is_index = error == std::errc() && end == key.data() + key.size();
  if (kind() == Kind::kList || (is_null() && is_index && index == 0)) {
    CTXC_CHECK(is_index && index <= items().size(), ErrorKind::kUsage, "",
               "{}: no such item of the list at {} (found '{}', expected 0 to {})", value.where(), where(),
               key, items().size());
    copy->kind = Kind::kList;
    if (index == items().size()) copy->items.push_back(absent);
    copy->items[index] = below(copy->items[index]);
  } else {
    CTXC_CHECK(is_null() || kind() == Kind::kMap, ErrorKind::kUsage, "",
               "{}: '{}' cannot be set below the value '{}' at {}", value.where(), key, scalar(), where());
    copy->kind = Kind::kMap;
    auto entry = std::find_if(copy->entries.begin(), copy->entries.end(),
                              [&](const auto& e) { return e.first == key; });
    if (entry == copy->entries.end()) {
      copy->entries.emplace_back(key, absent);
      copy->key_marks.emplace_back();
      entry = copy->entries.end() - 1;
    }
    entry->second = below(entry->second);
    if (dot == std::string_view::npos)
      copy->key_marks[static_cast<size_t>(entry - copy->entries.begin())] = {};
  }
  Yaml result;
  result.node_ = std::move(copy);
  return result;
}

Yaml Yaml::over(const Yaml& parent) const {
  if (kind() != Kind::kMap || parent.kind() != Kind::kMap) return *this;
  auto copy = std::make_shared<Node>(*node_);
  copy->entries = parent.entries();
  copy->key_marks = parent.node_->key_marks;
  for (size_t i = 0; i < entries().size(); ++i) {
    const auto& [key, value] = entries()[i];
    const auto entry = std::find_if(copy->entries.begin(), copy->entries.end(),
                                    [&](const auto& inherited) { return inherited.first == key; });
    const auto index = static_cast<size_t>(entry - copy->entries.begin());
    if (entry == copy->entries.end()) {
      copy->entries.emplace_back(key, value);
      copy->key_marks.emplace_back();
    } else {
      entry->second = value.over(entry->second);
    }
    copy->key_marks[index] = node_->key_marks[i];
  }
  Yaml result;
  result.node_ = std::move(copy);
  return result;
}

Yaml Yaml::without(std::string_view key) const {
  auto copy = std::make_shared<Node>(*node_);
  for (size_t i = 0; i < copy->entries.size(); ++i) {
    if (copy->entries[i].first != key) continue;
    copy->entries.erase(copy->entries.begin() + static_cast<std::ptrdiff_t>(i));
    copy->key_marks.erase(copy->key_marks.begin() + static_cast<std::ptrdiff_t>(i));
    break;
  }
  Yaml result;
  result.node_ = std::move(copy);
  return result;
}

std::pair<std::string, Yaml> parse_override(const std::string& text) {
  const size_t equals = text.find('=');
  CTXC_CHECK(equals != std::string::npos && equals > 0, ErrorKind::kUsage, "write section.key=value",
             "override '{}': no key and value (expected key=value)", text);
  return {std::string(trim(text.substr(0, equals))),
          Yaml::parse_text(std::string_view(text).substr(equals + 1), fmt::format("override '{}'", text), {},
                           false)};
}

}  // namespace ctxc
