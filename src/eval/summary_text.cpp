// Summaries of files as people read them.
#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "core/text.h"
#include "eval/file_summary.h"

namespace ctxc {
namespace {

std::string shape_text(const OrderedJson& shape) {
  std::vector<std::string> parts;
  for (const auto& size : shape) parts.push_back(fmt::format("{}", size.get<int64_t>()));
  return "[" + join(parts, ", ") + "]";
}

/// "model.layers.3.mlp" -> "model.layers.*.mlp"
std::string folded_name(const std::string& name) {
  std::vector<std::string> parts = split(name, '.');
  for (std::string& part : parts)
    if (!part.empty() && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; }))
      part = "*";
  return join(parts, ".");
}

std::string tensor_table(const OrderedJson& tensors, bool all) {
  struct Line {
    std::string name, dtype, shape;
    int64_t count = 0;
  };
  std::vector<Line> lines;
  std::map<std::string, size_t> place;
  for (const auto& tensor : tensors) {
    const std::string full = tensor.value("name", "");
    const Line line{all ? full : folded_name(full), tensor.value("dtype", ""), shape_text(tensor.at("shape")),
                    1};
    const auto [it, fresh] = place.emplace(line.name + "\n" + line.dtype + line.shape, lines.size());
    if (fresh)
      lines.push_back(line);
    else
      ++lines[it->second].count;
  }
  std::vector<std::vector<std::string>> rows = {{"tensor", "type", "shape", "count"}};
  for (const Line& line : lines)
    rows.push_back({line.name, line.dtype, line.shape, fmt::format("{}", line.count)});
  return format_table(rows);
}

/// Nested values as indented lines "key: value"; long texts (configurations) as blocks.
void render_value(const std::string& key, const OrderedJson& value, int indent, std::string& text) {
  const std::string pad = fmt::format("{:{}}", "", 2 * indent);
  if (value.is_object()) {
    text += fmt::format("{}{}:\n", pad, key);
    for (const auto& [name, item] : value.items()) render_value(name, item, indent + 1, text);
  } else if (value.is_string() && value.get_ref<const std::string&>().find('\n') != std::string::npos) {
    text += fmt::format("{}{}:\n", pad, key);
    for (const std::string& line : split(value.get<std::string>(), '\n'))
      text += fmt::format("{}  | {}\n", pad, line);
  } else {
    text += fmt::format("{}{}: {}\n", pad, key, value.is_string() ? value.get<std::string>() : value.dump());
  }
}

void render_into(const OrderedJson& summary, bool all_tensors, std::string& text) {
  for (const auto& [key, value] : summary.items()) {
    if (key == "tensors") continue;
    if (key == "newest") continue;
    if (key == "parameters")
      text += fmt::format("parameters: {} ({})\n", human_count(value.get<double>()), value.get<int64_t>());
    else if (key == "bytes")
      text += fmt::format("bytes: {}\n", human_bytes(value.get<uint64_t>()));
    else
      render_value(key, value, 0, text);
  }
  if (summary.contains("tensors") && !summary["tensors"].empty())
    text += "\n" + tensor_table(summary["tensors"], all_tensors);
  if (summary.contains("newest")) {
    text += "\n";
    render_into(summary["newest"], all_tensors, text);
  }
}

}  // namespace

std::string render_summary(const OrderedJson& summary, bool all_tensors) {
  std::string text;
  render_into(summary, all_tensors, text);
  return text;
}

}  // namespace ctxc
