#include "eval/html.h"

#include <fmt/format.h>

#include "eval/svg.h"

namespace ctxc {
namespace {

constexpr const char* kStyle = R"css(
:root { color-scheme: light dark; --ground: #ffffff; --text: #1c1e21; --soft: #5c636b; --line: #d9dde2; --stripe: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16181c; --text: #e4e6e9; --soft: #9aa2ab; --line: #363b42; --stripe: #1e2126; }
}
body { background: var(--ground); color: var(--text); font: 15px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; } h3 { font-size: 1.05rem; margin-top: 1.6rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { border-bottom: 2px solid var(--line); }
tbody tr:nth-child(even) { background: var(--stripe); }
td.n, th.n { text-align: right; white-space: nowrap; }
svg { display: block; max-width: 100%; height: auto; margin: 1rem 0; }
pre { background: var(--stripe); border: 1px solid var(--line); padding: 0.7rem; overflow-x: auto; font-size: 0.85rem;
  white-space: pre-wrap; }
summary { cursor: pointer; color: var(--soft); }
)css";

/// "12.3", "45.0 [42.1, 47.9]", "1,200", "—", "3.1 s": begins with a digit or sign, or is a dash.
bool reads_as_number(std::string_view text) {
  if (text.empty() || text == "—") return true;
  const char c = text[0] == '-' || text[0] == '+' ? (text.size() > 1 ? text[1] : '0') : text[0];
  return c >= '0' && c <= '9';
}

}  // namespace

std::string escape_html(std::string_view text) {
  return escape_xml(text);
}

HtmlPage::HtmlPage(std::string title) : title_(std::move(title)) {
  heading(1, title_);
}

void HtmlPage::heading(int level, std::string_view text) {
  body_ += fmt::format("<h{0}>{1}</h{0}>\n", level, escape_html(text));
}

void HtmlPage::paragraph(std::string_view text) {
  body_ += fmt::format("<p>{}</p>\n", escape_html(text));
}

void HtmlPage::table(const std::vector<std::vector<std::string>>& rows) {
  if (rows.empty()) return;
  std::vector<bool> numeric(rows[0].size(), rows.size() > 1);
  for (size_t r = 1; r < rows.size(); ++r)
    for (size_t c = 0; c < numeric.size() && c < rows[r].size(); ++c)
      if (!reads_as_number(rows[r][c])) numeric[c] = false;
  body_ += "<div class=\"scroll\"><table>\n";
  for (size_t r = 0; r < rows.size(); ++r) {
    const char* tag = r == 0 ? "th" : "td";
    body_ += r == 0 ? "<thead><tr>" : "<tr>";
    for (size_t c = 0; c < rows[r].size(); ++c)
      body_ += fmt::format("<{0}{1}>{2}</{0}>", tag, c < numeric.size() && numeric[c] ? " class=\"n\"" : "",
                           escape_html(rows[r][c]));
    body_ += r == 0 ? "</tr></thead>\n<tbody>\n" : "</tr>\n";
  }
  body_ += "</tbody></table></div>\n";
}

void HtmlPage::picture(const std::string& svg) {
  body_ += svg;
}

void HtmlPage::preformatted(std::string_view text) {
  body_ += fmt::format("<pre>{}</pre>\n", escape_html(text));
}

void HtmlPage::begin_details(std::string_view summary) {
  body_ += fmt::format("<details><summary>{}</summary>\n", escape_html(summary));
}

void HtmlPage::end_details() {
  body_ += "</details>\n";
}

std::string HtmlPage::str() const {
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n<meta name=\"viewport\" "
      "content=\"width=device-width, "
      "initial-scale=1\">\n<title>{}</title>\n<style>{}</style></head>\n<body>\n{}</body></html>\n",
      escape_html(title_), kStyle, body_);
}

}  // namespace ctxc
