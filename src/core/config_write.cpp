#include <algorithm>
#include <cctype>

#include "core/config.h"
#include "core/error.h"
#include "core/text.h"
#include "core/yaml_text.h"

namespace ctxc {
namespace {

std::string dump_list(const ListAccess& list, int indent) {
  if (list.size() == 0) return " []\n";
  std::string text = "\n";
  for (size_t i = 0; i < list.size(); ++i) {
    Fields below;
    list.describe_at(i, below);
    std::string lines = dump_fields(below, indent + 4);
    if (lines.empty()) lines = fmt::format("{:{}}{{}}\n", "", indent + 4);
    lines[static_cast<size_t>(indent) + 2] = '-';
    text += lines;
  }
  return text;
}

struct HelpEntry {
  std::string key, text;
};

/// "a.0.b" and "a[].b" are "a.b": what the keys of one list item have in common.
std::string without_items(const std::string& key) {
  std::vector<std::string> parts;
  for (std::string part : split(key, '.')) {
    if (part.ends_with("[]")) part.resize(part.size() - 2);
    if (!part.empty() &&
        std::all_of(part.begin(), part.end(), [](unsigned char c) { return std::isdigit(c); }))
      continue;
    parts.push_back(part);
  }
  return join(parts, ".");
}

void collect_help(const Fields& fields, const std::string& prefix, std::vector<HelpEntry>& entries) {
  for (const auto& field : fields.all()) {
    const FieldSpec& spec = field->spec();
    const std::string key = prefix.empty() ? spec.key : prefix + "." + spec.key;
    std::string text = fmt::format("{}: {}", key, spec.expected());
    if (!spec.unit.empty()) text += ", in " + spec.unit;
    if (spec.required) {
      text += ", required";
    } else if (spec.write) {
      const std::string value = spec.write(0);
      text += ", default" + (value.starts_with('\n') ? value : value.substr(0, value.size() - 1));
    }
    entries.push_back({key, text + "\n    " + spec.help + "\n"});
    Fields below;
    if (spec.section) spec.section(below);
    if (spec.list) spec.list->describe_default(below);
    collect_help(below, spec.list ? key + "[]" : key, entries);
  }
}

}  // namespace

std::string dump_fields(const Fields& fields, int indent) {
  std::string text;
  for (const auto& field : fields.all()) {
    const FieldSpec& spec = field->spec();
    text += fmt::format("{:{}}{}:", "", indent, yaml_string(spec.key));
    if (spec.section) {
      Fields below;
      spec.section(below);
      text += below.all().empty() ? " {}\n" : "\n" + dump_fields(below, indent + 2);
    } else {
      text += spec.list ? dump_list(*spec.list, indent) : spec.write(indent);
    }
  }
  return text;
}

std::string help_for(const Fields& fields, const std::string& dotted_key, const std::string& prefix) {
  std::vector<HelpEntry> entries;
  collect_help(fields, prefix, entries);
  std::string wanted = without_items(dotted_key);
  if (!prefix.empty() && wanted != prefix && !wanted.starts_with(prefix + "."))
    wanted = wanted.empty() ? prefix : prefix + "." + wanted;
  std::string text;
  std::vector<std::string> known;
  for (const HelpEntry& entry : entries) {
    known.push_back(without_items(entry.key));
    if (wanted.empty() || known.back() == wanted || known.back().starts_with(wanted + "."))
      text += entry.text;
  }
  CTXC_CHECK(!text.empty(), ErrorKind::kUsage, did_you_mean(wanted, known), "no configuration key '{}'",
             dotted_key);
  return text;
}

}  // namespace ctxc
