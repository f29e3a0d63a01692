// The drawing surface of reports: elements, ticks and axes. Pictures are self-contained SVG, readable on
// light and dark pages alike: lines and text take the colour of the text around them (`currentColor`), data
// come from one palette of middle brightness.
#pragma once
#include <string>
#include <string_view>
#include <vector>

namespace ctxc {

/// & < > " ' as entities; characters XML forbids (control codes) become U+FFFD.
std::string escape_xml(std::string_view text);
/// Colour of the i-th data series, "#rrggbb"; repeats after eight.
std::string series_color(size_t index);
/// Colour of a value in [0, 1], from pale to deep; NaN is grey.
std::string heat_color(double value);

/// "0.25", "12 k", "3e-05": short forms people read on an axis. `step` is the distance to the next tick.
std::string tick_label(double value, double step = 0);

/// Maps data to pixels along one axis and knows where its ticks go.
class Axis {
 public:
  struct Tick {
    double value;
    std::string label;  ///< empty: a small tick
  };
  /// Data from `low` to `high` (widened if equal; both positive when `log`) onto pixels `from`..`to`.
  /// Linear axes are widened to whole ticks unless `tight`.
  Axis(double low, double high, double from, double to, bool log = false, bool tight = false);
  double pixel(double value) const;
  const std::vector<Tick>& ticks() const { return ticks_; }
  double low() const { return low_; }
  double high() const { return high_; }

 private:
  void place_linear(bool tight);
  void place_log();
  double low_, high_, from_, to_;
  bool log_;
  std::vector<Tick> ticks_;
};

/// An SVG under construction; coordinates in pixels, origin top left.
class Svg {
 public:
  Svg(double width, double height) : width_(width), height_(height) {}
  enum class Anchor { kStart, kMiddle, kEnd };
  struct TextStyle {
    double size = 12;
    Anchor anchor = Anchor::kStart;
    bool bold = false;
    double turn = 0;  ///< degrees about the position
    double opacity = 1;
    std::string fill = "currentColor";
  };

  void line(double x1, double y1, double x2, double y2, const std::string& stroke = "currentColor",
            double width = 1, double opacity = 1);
  /// NaN in y breaks the line.
  void polyline(const std::vector<double>& x, const std::vector<double>& y, const std::string& stroke,
                double width, double opacity = 1, bool dashed = false);
  /// `tooltip` is shown by browsers when the pointer rests on it.
  void rect(double x, double y, double width, double height, const std::string& fill, double opacity = 1,
            const std::string& tooltip = "");
  void circle(double x, double y, double radius, const std::string& fill, const std::string& tooltip = "");
  void text(double x, double y, std::string_view text, const TextStyle& style);
  void text(double x, double y, std::string_view text) { this->text(x, y, text, TextStyle{}); }

  /// The element, fit for a page and for a file of its own. `title` is what screen readers say.
  std::string str(const std::string& title) const;

 private:
  double width_, height_;
  std::string body_;
};

/// Pixels a text takes in the fonts used, roughly: for margins.
double text_width(std::string_view text, double size = 12);

}  // namespace ctxc
