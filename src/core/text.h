// Small text helpers: edit distance, did-you-mean, bytes and durations for people, tables.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace ctxc {

std::string join(const std::vector<std::string>& parts, std::string_view separator);
std::vector<std::string> split(std::string_view text,
                               char separator);  ///< "a,,b" gives three parts; "" gives none
std::string_view trim(std::string_view text);    ///< ASCII white space
/// Levenshtein distance in bytes.
int edit_distance(std::string_view a, std::string_view b);
/// "did you mean 'x'?" for the nearest candidate within a third of the length, else "".
std::string did_you_mean(std::string_view word, const std::vector<std::string>& candidates);
std::string human_bytes(uint64_t bytes);     ///< "1.4 GiB"
std::string human_duration(double seconds);  ///< "2 h 05 min", "3 min 20 s", "0.42 s"
std::string human_count(double count);       ///< "134.5 M"

/// A Markdown table whose columns also line up as plain text; the first row is the header. Numbers align
/// right.
std::string format_table(const std::vector<std::vector<std::string>>& rows);

}  // namespace ctxc
