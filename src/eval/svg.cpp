#include "eval/svg.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace ctxc {
namespace {

std::string number(double value) {
  if (!std::isfinite(value)) return "0";
  std::string text = fmt::format("{:.2f}", value);
  while (text.back() == '0') text.pop_back();
  if (text.back() == '.') text.pop_back();
  return text == "-0" ? "0" : text;
}

const char* anchor_name(Svg::Anchor anchor) {
  if (anchor == Svg::Anchor::kMiddle) return "middle";
  return anchor == Svg::Anchor::kEnd ? "end" : "start";
}

/// 1, 2 or 5 times a power of ten, near `span / count`.
double nice_step(double span, int count) {
  const double raw = span / count, power = std::pow(10.0, std::floor(std::log10(raw)));
  const double fraction = raw / power;
  if (fraction < 1.5) return power;
  if (fraction < 3.5) return 2 * power;
  if (fraction < 7.5) return 5 * power;
  return 10 * power;
}

}  // namespace

std::string escape_xml(std::string_view text) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (unsigned char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        if (c < 0x20 && c != '\n' && c != '\t' && c != '\r')
          out += "\xEF\xBF\xBD";
        else
          out += static_cast<char>(c);
    }
  }
  return out;
}

std::string series_color(size_t index) {
  static const std::array<const char*, 8> colors = {"#3b82c4", "#e07b39", "#2a9d6f", "#c44e8a",
                                                    "#8a6fd1", "#b0902c", "#3aa5b5", "#8a8a8a"};
  return colors[index % colors.size()];
}

std::string heat_color(double value) {
  if (!std::isfinite(value)) return "#999999";
  // Dark blue over teal to pale yellow: brightness grows steadily, so that it reads in grey as well.
  static const double stops[5][3] = {
      {38, 36, 90}, {49, 89, 140}, {47, 144, 141}, {120, 196, 110}, {246, 231, 130}};
  const double place = std::clamp(value, 0.0, 1.0) * 4;
  const int low = std::min(3, static_cast<int>(place));
  const double share = place - low;
  std::array<int, 3> rgb;
  for (int c = 0; c < 3; ++c)
    rgb[c] = static_cast<int>(std::lround(stops[low][c] * (1 - share) + stops[low + 1][c] * share));
  return fmt::format("#{:02x}{:02x}{:02x}", rgb[0], rgb[1], rgb[2]);
}

std::string tick_label(double value, double step) {
  const double size = std::abs(value);
  if (size < 1e-300) return "0";
  if (size >= 1e9) return fmt::format("{:.3g} G", value / 1e9);
  if (size >= 1e6) return fmt::format("{:.4g} M", value / 1e6);
  if (size >= 1e4) return fmt::format("{:.4g} k", value / 1e3);
  if (size < 1e-3) return fmt::format("{:.3g}", value);
  // As many decimals as tell neighbours apart.
  const int decimals =
      step > 0 ? std::clamp(static_cast<int>(-std::floor(std::log10(step) + 1e-9)), 0, 6) : -1;
  return decimals >= 0 ? fmt::format("{:.{}f}", value, decimals) : fmt::format("{:.4g}", value);
}

double text_width(std::string_view text, double size) {
  size_t characters = 0;
  for (unsigned char c : text) characters += (c & 0xC0) != 0x80;
  return 0.55 * size * static_cast<double>(characters);
}

Axis::Axis(double low, double high, double from, double to, bool log, bool tight)
    : low_(low), high_(high), from_(from), to_(to), log_(log) {
  if (!(high_ > low_)) {
    const double room = log_ ? 0 : std::max(std::abs(low_) * 0.1, 1e-9);
    high_ = log_ ? low_ * 2 : low_ + room;
    low_ = log_ ? low_ / 2 : low_ - room;
  }
  log_ ? place_log() : place_linear(tight);
}

double Axis::pixel(double value) const {
  const double share = log_ ? (std::log(value) - std::log(low_)) / (std::log(high_) - std::log(low_))
                            : (value - low_) / (high_ - low_);
  return from_ + share * (to_ - from_);
}

void Axis::place_linear(bool tight) {
  const int wanted = std::clamp(static_cast<int>(std::abs(to_ - from_) / 70), 2, 10);
  const double step = nice_step(high_ - low_, wanted);
  if (!tight) {
    low_ = std::floor(low_ / step + 1e-9) * step;
    high_ = std::ceil(high_ / step - 1e-9) * step;
  }
  for (double k = std::ceil(low_ / step - 1e-9); k * step <= high_ + step * 1e-6; ++k)
    ticks_.push_back({k * step, tick_label(k * step, step)});
}

void Axis::place_log() {
  const double decades = std::log10(high_ / low_);
  const int every = std::max(1, static_cast<int>(std::ceil(decades / 8)));
  for (int power = static_cast<int>(std::floor(std::log10(low_))); power <= std::ceil(std::log10(high_));
       ++power) {
    for (int digit = 1; digit <= 9; ++digit) {
      const double value = digit * std::pow(10.0, power);
      if (value < low_ * (1 - 1e-9) || value > high_ * (1 + 1e-9)) continue;
      const bool narrow = decades < 1, middling = decades < 3;
      const bool labelled = digit == 1 ? power % every == 0
                            : narrow   ? true
                                       : middling && (digit == 2 || digit == 5);
      ticks_.push_back({value, labelled ? tick_label(value) : ""});
    }
  }
}

void Svg::line(double x1, double y1, double x2, double y2, const std::string& stroke, double width,
               double opacity) {
  body_ += fmt::format(
      "<line x1=\"{}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"{}\" stroke-width=\"{}\" opacity=\"{}\"/>\n",
      number(x1), number(y1), number(x2), number(y2), stroke, number(width), number(opacity));
}

void Svg::polyline(const std::vector<double>& x, const std::vector<double>& y, const std::string& stroke,
                   double width, double opacity, bool dashed) {
  std::string path;
  bool drawing = false;
  for (size_t i = 0; i < x.size() && i < y.size(); ++i) {
    if (!std::isfinite(x[i]) || !std::isfinite(y[i])) {
      drawing = false;
      continue;
    }
    path += fmt::format("{}{},{} ", drawing ? "L" : "M", number(x[i]), number(y[i]));
    drawing = true;
  }
  if (path.empty()) return;
  body_ += fmt::format(
      "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-linejoin=\"round\" "
      "opacity=\"{}\"{}/>\n",
      path, stroke, number(width), number(opacity), dashed ? " stroke-dasharray=\"6 4\"" : "");
}

void Svg::rect(double x, double y, double width, double height, const std::string& fill, double opacity,
               const std::string& tooltip) {
  body_ += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{}\" opacity=\"{}\"",
                       number(x), number(y), number(width), number(height), fill, number(opacity));
  body_ += tooltip.empty() ? "/>\n" : fmt::format("><title>{}</title></rect>\n", escape_xml(tooltip));
}

void Svg::circle(double x, double y, double radius, const std::string& fill, const std::string& tooltip) {
  body_ += fmt::format("<circle cx=\"{}\" cy=\"{}\" r=\"{}\" fill=\"{}\"", number(x), number(y),
                       number(radius), fill);
  body_ += tooltip.empty() ? "/>\n" : fmt::format("><title>{}</title></circle>\n", escape_xml(tooltip));
}

void Svg::text(double x, double y, std::string_view text, const TextStyle& style) {
  body_ += fmt::format(
      "<text x=\"{}\" y=\"{}\" font-size=\"{}\" text-anchor=\"{}\" fill=\"{}\"{}{}{}>{}</text>\n", number(x),
      number(y), number(style.size), anchor_name(style.anchor), style.fill,
      style.bold ? " font-weight=\"600\"" : "",
      style.opacity < 1 ? fmt::format(" opacity=\"{}\"", number(style.opacity)) : "",
      style.turn != 0
          ? fmt::format(" transform=\"rotate({} {} {})\"", number(style.turn), number(x), number(y))
          : "",
      escape_xml(text));
}

std::string Svg::str(const std::string& title) const {
  return fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" "
      "role=\"img\" "
      "font-family=\"system-ui, Segoe UI, Helvetica, Arial, sans-serif\"><title>{2}</title>\n{3}</svg>\n",
      number(width_), number(height_), escape_xml(title), body_);
}

}  // namespace ctxc
