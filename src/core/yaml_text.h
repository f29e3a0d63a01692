// YAML as text: what a plain scalar means, how a string is quoted, a tree written so that it parses back.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "core/yaml.h"

namespace ctxc {

std::optional<bool> yaml_bool(std::string_view plain);  ///< true | false, also capitalised
/// Decimal digits with an optional sign, "_" between digits, or a number form whose value is an integer
/// ("1e4").
std::optional<int64_t> yaml_integer(std::string_view plain);
std::optional<double> yaml_number(std::string_view plain);  ///< decimal, ".inf", "-.inf"; never NaN

/// The text as a scalar that reads back as this string: plain where that is unambiguous, else double-quoted.
std::string yaml_string(std::string_view text);
std::string yaml_string(double value);  ///< shortest text that reads back as the same number

/// The tree in flow style, one line.
std::string yaml_flow(const Yaml& node);
/// The tree in block style below a key at `indent` spaces: " scalar\n", " [a, b]\n" or "\n" and indented
/// lines.
std::string yaml_block(const Yaml& node, int indent);

}  // namespace ctxc
