// Self-contained pages: one file, no scripts, no network; follows the reader's light or dark preference.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace ctxc {

/// & < > " ' as entities.
std::string escape_html(std::string_view text);

class HtmlPage {
 public:
  explicit HtmlPage(std::string title);
  void heading(int level, std::string_view text);
  void paragraph(std::string_view text);
  /// First row = header; cells that read as numbers align right. Text is escaped.
  void table(const std::vector<std::vector<std::string>>& rows);
  /// A finished SVG element.
  void picture(const std::string& svg);
  void preformatted(std::string_view text);
  /// A block that is closed until the reader opens it.
  void begin_details(std::string_view summary);
  void end_details();
  std::string str() const;

 private:
  std::string title_, body_;
};

}  // namespace ctxc
