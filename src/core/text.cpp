#include "core/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

namespace ctxc {
namespace {

/// Code points, which is what a column of a terminal shows (combining marks and wide characters aside).
size_t width_of(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

/// "26.9", "-3 %", "1.4 GiB", "12 [9, 15]": a number, alone or followed by something set apart from it.
bool looks_numeric(std::string_view cell) {
  size_t at = !cell.empty() && (cell[0] == '-' || cell[0] == '+') ? 1 : 0;
  const size_t digits = at;
  while (at < cell.size() && (std::isdigit(static_cast<unsigned char>(cell[at])) || cell[at] == '.')) ++at;
  if (at == digits || cell[digits] == '.') return false;
  if (at + 1 < cell.size() && cell[at] == 'e') return looks_numeric(cell.substr(at + 1));
  return at == cell.size() || cell[at] == ' ' || cell[at] == '%';
}

std::string scaled(double value, double base, const std::array<const char*, 6>& units,
                   const char* separator) {
  size_t unit = 0;
  // 0.05 below the base is where one decimal would round up to "1024.0".
  while (unit + 1 < units.size() && std::abs(value) >= base - (unit ? 0.05 : 0.0)) value /= base, ++unit;
  return unit ? fmt::format("{:.1f} {}", value, units[unit])
              : fmt::format("{:.4g}{}{}", value, separator, units[0]);
}

}  // namespace

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i) text += separator;
    text += parts[i];
  }
  return text;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  if (text.empty()) return parts;
  for (size_t start = 0;;) {
    const size_t end = text.find(separator, start);
    parts.emplace_back(text.substr(start, end - start));
    if (end == std::string_view::npos) return parts;
    start = end + 1;
  }
}

std::string_view trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  const size_t start = text.find_first_not_of(kSpace);
  if (start == std::string_view::npos) return {};
  return text.substr(start, text.find_last_not_of(kSpace) - start + 1);
}

int edit_distance(std::string_view a, std::string_view b) {
  std::vector<int> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 0; i < a.size(); ++i) {
    int diagonal = row[0];
    row[0] = static_cast<int>(i) + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      const int substituted = diagonal + (a[i] != b[j]);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j] + 1, row[j + 1] + 1, substituted});
    }
  }
  return row.back();
}

std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates) {
  const std::string* best = nullptr;
  int best_distance = 0;
  for (const std::string& candidate : candidates) {
    const int length = static_cast<int>(std::max(word.size(), candidate.size()));
    const int distance = edit_distance(word, candidate);
    if (distance > (length + 2) / 3 || distance >= length) continue;
    if (!best || distance < best_distance) best = &candidate, best_distance = distance;
  }
  return best ? fmt::format("did you mean '{}'?", *best) : "";
}

std::string human_bytes(uint64_t bytes) {
  return scaled(static_cast<double>(bytes), 1024, {"B", "KiB", "MiB", "GiB", "TiB", "PiB"}, " ");
}

std::string human_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  if (seconds < 9.995) return fmt::format("{:.2f} s", seconds);
  if (seconds < 59.95) return fmt::format("{:.1f} s", seconds);
  const int64_t whole = std::llround(seconds);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  const int64_t minutes = std::llround(seconds / 60);
  return fmt::format("{} h {:02} min", minutes / 60, minutes % 60);
}

std::string human_count(double count) {
  return scaled(count, 1000, {"", "k", "M", "G", "T", "P"}, "");
}

std::string format_table(const std::vector<std::vector<std::string>>& rows) {
  size_t columns = 0;
  for (const auto& row : rows) columns = std::max(columns, row.size());
  if (columns == 0) return "";
  std::vector<std::vector<std::string>> cells(rows.size(), std::vector<std::string>(columns));
  std::vector<size_t> width(columns, 3);
  std::vector<bool> right(columns, false), left(columns, false);
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < rows[r].size(); ++c) {
      for (char letter : rows[r][c]) {
        if (letter == '|') cells[r][c] += '\\';
        cells[r][c] += letter == '\n' ? ' ' : letter;
      }
      width[c] = std::max(width[c], width_of(cells[r][c]));
      const std::string& cell = cells[r][c];
      const bool neutral = r == 0 || cell.empty() || cell == "-" || cell == "–";
      if (!neutral) (looks_numeric(cell) ? right : left)[c] = true;
    }
  }
  std::string text;
  for (size_t r = 0; r < rows.size(); ++r) {
    for (size_t c = 0; c < columns; ++c) {
      const std::string space(width[c] - width_of(cells[r][c]), ' ');
      text += right[c] && !left[c] ? "| " + space + cells[r][c] + " " : "| " + cells[r][c] + space + " ";
    }
    text += "|\n";
    if (r > 0) continue;
    for (size_t c = 0; c < columns; ++c)
      text += "|" + std::string(width[c] + 1, '-') + (right[c] && !left[c] ? ":" : "-");
    text += "|\n";
  }
  return text;
}

}  // namespace ctxc
