#include "eval/chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

namespace ctxc {
namespace {

constexpr double kTitleSize = 14, kTextSize = 12, kSmall = 11;

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  void add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  bool empty() const { return low > high; }
};

bool usable(double value, bool log) {
  return std::isfinite(value) && (!log || value > 0);
}

/// At most two points (lowest and highest) for every pixel column: spikes survive, files stay small.
void thin_out(std::vector<double>& x, std::vector<double>& y, double from, double to) {
  const size_t columns = static_cast<size_t>(std::max(1.0, to - from));
  if (x.size() <= 2 * columns) return;
  std::vector<double> kept_x, kept_y;
  for (size_t i = 0; i < x.size();) {
    const double column = std::floor(x[i]);
    size_t lowest = i, highest = i, j = i;
    for (; j < x.size() && std::floor(x[j]) == column; ++j) {
      if (y[j] > y[lowest]) lowest = j;  // pixels grow downwards
      if (y[j] < y[highest]) highest = j;
    }
    for (size_t k : {std::min(lowest, highest), std::max(lowest, highest)}) {
      kept_x.push_back(x[k]);
      kept_y.push_back(y[k]);
      if (lowest == highest) break;
    }
    i = j;
  }
  x = std::move(kept_x);
  y = std::move(kept_y);
}

void draw_empty(Svg& svg, double width, double height) {
  svg.text(width / 2, height / 2, "no data yet",
           {.size = kTextSize, .anchor = Svg::Anchor::kMiddle, .opacity = 0.6});
}

/// Labels in one line from `x` on, wrapping at `right`; returns the number of lines used.
int draw_legend(Svg& svg, const std::vector<std::pair<std::string, std::string>>& names_and_colors,
                double left, double y, double right) {
  double x = left;
  int lines = names_and_colors.empty() ? 0 : 1;
  for (const auto& [name, color] : names_and_colors) {
    const double needed = 24 + text_width(name, kTextSize) + 14;
    if (x + needed > right && x > left) {
      x = left;
      y += 18;
      ++lines;
    }
    svg.rect(x, y - 8, 16, 6, color);
    svg.text(x + 22, y, name, {.size = kTextSize});
    x += needed;
  }
  return lines;
}

void draw_grid(Svg& svg, const Axis& x, const Axis& y, double left, double right, double bottom) {
  for (const Axis::Tick& tick : y.ticks()) {
    const double at = y.pixel(tick.value);
    svg.line(left, at, right, at, "currentColor", 1, tick.label.empty() ? 0.05 : 0.15);
    if (!tick.label.empty())
      svg.text(left - 7, at + 4, tick.label, {.size = kSmall, .anchor = Svg::Anchor::kEnd});
  }
  for (const Axis::Tick& tick : x.ticks()) {
    const double at = x.pixel(tick.value);
    svg.line(at, bottom, at, bottom + (tick.label.empty() ? 3 : 5), "currentColor", 1, 0.6);
    if (!tick.label.empty())
      svg.text(at, bottom + 18, tick.label, {.size = kSmall, .anchor = Svg::Anchor::kMiddle});
  }
  svg.line(left, bottom, right, bottom, "currentColor", 1, 0.6);
}

}  // namespace

std::vector<double> smooth(const std::vector<double>& y, double span) {
  const double keep = 1 - 1 / std::max(1.0, span);
  std::vector<double> out(y.size());
  double sum = 0, weight = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    if (std::isfinite(y[i])) {
      sum = keep * sum + (1 - keep) * y[i];
      weight = keep * weight + (1 - keep);
    }
    out[i] = weight > 0 ? sum / weight : std::numeric_limits<double>::quiet_NaN();
  }
  return out;
}

std::string render_svg(const LineChart& chart) {
  Range xs, ys;
  std::vector<std::pair<std::string, std::string>> legend;
  for (size_t s = 0; s < chart.series.size(); ++s) {
    const Series& series = chart.series[s];
    const size_t count = std::min(series.x.size(), series.y.size());
    for (size_t i = 0; i < count; ++i) {
      if (!usable(series.x[i], chart.log_x) || !usable(series.y[i], chart.log_y)) continue;
      xs.add(series.x[i]);
      ys.add(series.y[i]);
    }
    if (!series.faint) legend.emplace_back(series.name, series_color(series.color >= 0 ? series.color : s));
  }
  Svg svg(chart.width, chart.height);
  svg.text(8, 20, chart.title, {.size = kTitleSize, .bold = true});
  if (xs.empty()) {
    draw_empty(svg, chart.width, chart.height);
    return svg.str(chart.title);
  }
  const double left = 64, right = chart.width - 28, bottom = chart.height - 44;
  const int lines = draw_legend(svg, legend, left, 42, right);
  const double top = 40 + 18 * lines;
  const Axis x(xs.low, xs.high, left, right, chart.log_x, true), y(ys.low, ys.high, bottom, top, chart.log_y);
  draw_grid(svg, x, y, left, right, bottom);
  for (size_t s = 0; s < chart.series.size(); ++s) {
    const Series& series = chart.series[s];
    std::vector<double> px, py;
    for (size_t i = 0; i < series.x.size() && i < series.y.size(); ++i) {
      if (!usable(series.x[i], chart.log_x)) continue;
      px.push_back(x.pixel(series.x[i]));
      py.push_back(usable(series.y[i], chart.log_y) ? y.pixel(series.y[i])
                                                    : std::numeric_limits<double>::quiet_NaN());
    }
    thin_out(px, py, left, right);
    const std::string color = series_color(series.color >= 0 ? series.color : s);
    svg.polyline(px, py, color, series.faint ? 1 : 2, series.faint ? 0.35 : 1, series.dashed);
    if (!series.faint && px.size() <= 40)
      for (size_t i = 0; i < px.size(); ++i)
        if (std::isfinite(py[i])) svg.circle(px[i], py[i], 2.5, color);
  }
  svg.text((left + right) / 2, chart.height - 8, chart.x_label,
           {.size = kTextSize, .anchor = Svg::Anchor::kMiddle});
  svg.text(16, (top + bottom) / 2, chart.y_label,
           {.size = kTextSize, .anchor = Svg::Anchor::kMiddle, .turn = -90});
  return svg.str(chart.title);
}

std::string render_svg(const IntervalChart& chart) {
  constexpr double kRow = 18, kGap = 12;
  std::map<std::string, size_t> color_of;
  std::vector<std::pair<std::string, std::string>> legend;
  Range range;
  size_t rows = 0;
  double name_width = 40, height_of_groups = 0;
  for (const IntervalGroup& group : chart.groups) {
    name_width = std::max(name_width, text_width(group.name, kTextSize));
    rows += group.estimates.size();
    height_of_groups += kRow * static_cast<double>(group.estimates.size()) + kGap;
    for (const Estimate& estimate : group.estimates) {
      for (double value : {0.0, estimate.value, estimate.low, estimate.high}) range.add(value);
      if (color_of.emplace(estimate.name, color_of.size()).second)
        legend.emplace_back(estimate.name, series_color(color_of.size() - 1));
    }
  }
  Svg probe(chart.width, 10);
  const double left = name_width + 28, right = chart.width - 56;
  const int lines = draw_legend(probe, legend, left, 42, chart.width - 16);
  const double top = 40 + 18 * lines, bottom = top + std::max(40.0, height_of_groups);
  Svg svg(chart.width, bottom + 44);
  svg.text(8, 20, chart.title, {.size = kTitleSize, .bold = true});
  if (rows == 0) {
    draw_empty(svg, chart.width, bottom + 44);
    return svg.str(chart.title);
  }
  draw_legend(svg, legend, left, 42, chart.width - 16);
  const Axis x(range.low, range.high, left, right);
  for (const Axis::Tick& tick : x.ticks()) {
    svg.line(x.pixel(tick.value), top, x.pixel(tick.value), bottom, "currentColor", 1, 0.15);
    svg.text(x.pixel(tick.value), bottom + 18, tick.label, {.size = kSmall, .anchor = Svg::Anchor::kMiddle});
  }
  double y = top + kGap / 2;
  for (const IntervalGroup& group : chart.groups) {
    const double block = kRow * static_cast<double>(group.estimates.size());
    svg.text(left - 12, y + block / 2 + 4, group.name, {.size = kTextSize, .anchor = Svg::Anchor::kEnd});
    for (const Estimate& estimate : group.estimates) {
      const std::string color = series_color(color_of[estimate.name]);
      const double middle = y + kRow / 2;
      svg.rect(x.pixel(std::min(0.0, estimate.value)), middle - 5,
               std::abs(x.pixel(estimate.value) - x.pixel(0)), 10, color, 0.35);
      svg.line(x.pixel(estimate.low), middle, x.pixel(estimate.high), middle, color, 2);
      for (double end : {estimate.low, estimate.high})
        svg.line(x.pixel(end), middle - 4, x.pixel(end), middle + 4, color, 2);
      svg.circle(x.pixel(estimate.value), middle, 3.5, color,
                 fmt::format("{} on {}: {:.1f} ({:.1f} to {:.1f})", estimate.name, group.name, estimate.value,
                             estimate.low, estimate.high));
      svg.text(x.pixel(std::max(estimate.high, estimate.value)) + 8, middle + 4,
               fmt::format("{:.1f}", estimate.value), {.size = kSmall});
      y += kRow;
    }
    y += kGap;
  }
  svg.line(left, bottom, right, bottom, "currentColor", 1, 0.6);
  svg.text((left + right) / 2, bottom + 38, chart.x_label,
           {.size = kTextSize, .anchor = Svg::Anchor::kMiddle});
  return svg.str(chart.title);
}

namespace {

struct HeatLayout {
  size_t rows = 0, columns = 0;
  double left = 0, top = 34, cell_width = 0, cell_height = 0, label_height = 24;
  bool slanted = false;
};

HeatLayout lay_out(const HeatMap& map) {
  HeatLayout layout;
  layout.rows = map.values.size();
  for (const auto& row : map.values) layout.columns = std::max(layout.columns, row.size());
  double row_label = 24, column_label = 0;
  for (const std::string& label : map.rows) row_label = std::max(row_label, text_width(label, kSmall));
  for (const std::string& label : map.columns)
    column_label = std::max(column_label, text_width(label, kSmall));
  layout.left = row_label + 40;
  layout.cell_width =
      (map.width - layout.left - 80) / static_cast<double>(std::max<size_t>(1, layout.columns));
  layout.cell_height =
      map.row_height > 0
          ? map.row_height
          : std::clamp(320.0 / static_cast<double>(std::max<size_t>(1, layout.rows)), 3.0, 26.0);
  layout.slanted = column_label > layout.cell_width - 2;
  if (layout.slanted) layout.label_height = std::min(column_label, 110.0) + 14;
  return layout;
}

/// Every how many labels of `cell` pixels one has room.
size_t label_stride(double cell, double needed) {
  return static_cast<size_t>(std::max(1.0, std::ceil(needed / cell)));
}

void draw_heat_labels(Svg& svg, const HeatMap& map, const HeatLayout& layout) {
  const size_t row_stride = label_stride(layout.cell_height, 12);
  for (size_t r = 0; r < layout.rows; r += row_stride)
    svg.text(layout.left - 6, layout.top + (static_cast<double>(r) + 0.5) * layout.cell_height + 4,
             r < map.rows.size() ? map.rows[r] : fmt::format("{}", r),
             {.size = kSmall, .anchor = Svg::Anchor::kEnd});
  const double bottom = layout.top + static_cast<double>(layout.rows) * layout.cell_height;
  const size_t column_stride = label_stride(layout.cell_width, layout.slanted ? 12 : 8);
  for (size_t c = 0; c < layout.columns;
       c += map.columns.empty() ? label_stride(layout.cell_width, 28) : column_stride) {
    const double x = layout.left + (static_cast<double>(c) + 0.5) * layout.cell_width;
    const std::string label = c < map.columns.size() ? map.columns[c] : fmt::format("{}", c);
    if (layout.slanted && !map.columns.empty())
      svg.text(x + 4, bottom + 8, label, {.size = kSmall, .anchor = Svg::Anchor::kEnd, .turn = -90});
    else
      svg.text(x, bottom + 15, label, {.size = kSmall, .anchor = Svg::Anchor::kMiddle});
  }
}

void draw_heat_scale(Svg& svg, const HeatMap& map, const HeatLayout& layout, const Range& range) {
  constexpr int kSteps = 24;
  const double height = std::max(60.0, static_cast<double>(layout.rows) * layout.cell_height);
  const double x = map.width - 64;
  for (int i = 0; i < kSteps; ++i)
    svg.rect(x, layout.top + height * i / kSteps, 12, height / kSteps + 0.5,
             heat_color(1 - (i + 0.5) / kSteps));
  svg.text(x + 17, layout.top + 9, fmt::format("{:.2g}", range.high), {.size = kSmall});
  svg.text(x + 17, layout.top + height, fmt::format("{:.2g}", range.low), {.size = kSmall});
}

}  // namespace

std::string render_svg(const HeatMap& map) {
  const HeatLayout layout = lay_out(map);
  const double bottom = layout.top + std::max(60.0, static_cast<double>(layout.rows) * layout.cell_height);
  const double height = bottom + layout.label_height + (map.x_label.empty() ? 4 : 24);
  Svg svg(map.width, height);
  svg.text(8, 20, map.title, {.size = kTitleSize, .bold = true});
  Range range;
  for (const auto& row : map.values)
    for (double value : row) range.add(value);
  if (range.empty()) {
    draw_empty(svg, map.width, height);
    return svg.str(map.title);
  }
  const double span = range.high > range.low ? range.high - range.low : 1;
  for (size_t r = 0; r < map.values.size(); ++r) {
    for (size_t c = 0; c < map.values[r].size(); ++c) {
      const double value = map.values[r][c], share = (value - range.low) / span;
      const double x = layout.left + static_cast<double>(c) * layout.cell_width;
      const double y = layout.top + static_cast<double>(r) * layout.cell_height;
      svg.rect(x, y, layout.cell_width + 0.4, layout.cell_height + 0.4, heat_color(share));
      if (map.annotate && std::isfinite(value) && layout.cell_width > 26 && layout.cell_height > 12)
        svg.text(x + layout.cell_width / 2, y + layout.cell_height / 2 + 4, fmt::format("{:.2g}", value),
                 {.size = 10, .anchor = Svg::Anchor::kMiddle, .fill = share > 0.6 ? "#111111" : "#f5f5f5"});
    }
  }
  draw_heat_labels(svg, map, layout);
  draw_heat_scale(svg, map, layout, range);
  if (!map.x_label.empty())
    svg.text((layout.left + map.width - 80) / 2, height - 6, map.x_label,
             {.size = kTextSize, .anchor = Svg::Anchor::kMiddle});
  if (!map.y_label.empty())
    svg.text(14, (layout.top + bottom) / 2, map.y_label,
             {.size = kTextSize, .anchor = Svg::Anchor::kMiddle, .turn = -90});
  return svg.str(map.title);
}

}  // namespace ctxc
