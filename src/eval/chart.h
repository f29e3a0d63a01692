// Charts of the reports: curves, estimates with intervals, heat maps. Each renders to one self-contained SVG.
#pragma once
#include <string>
#include <vector>

#include "eval/svg.h"

namespace ctxc {

struct Series {
  std::string name;
  std::vector<double> x, y;  ///< y may hold NaN: a gap
  bool faint = false;        ///< raw data behind a smoothed curve; not in the legend
  bool dashed = false;
  int color = -1;  ///< palette index; -1 = its place among the series
};

struct LineChart {
  std::string title, x_label, y_label;
  bool log_x = false, log_y = false;  ///< points that are not positive are left out then
  std::vector<Series> series;
  double width = 760, height = 340;
};
std::string render_svg(const LineChart& chart);

/// The exponential moving average with the weight of `span` points, corrected for its start; for noisy
/// curves.
std::vector<double> smooth(const std::vector<double>& y, double span);

struct Estimate {
  std::string name;  ///< the method
  double value = 0, low = 0, high = 0;
};
struct IntervalGroup {
  std::string name;  ///< the data set
  std::vector<Estimate> estimates;
};
/// Points with their intervals, one block of rows for each group, one colour for each name.
struct IntervalChart {
  std::string title, x_label;
  std::vector<IntervalGroup> groups;
  double width = 760;
};
std::string render_svg(const IntervalChart& chart);

struct HeatMap {
  std::string title, x_label, y_label;
  std::vector<std::string> columns, rows;   ///< labels; empty = numbered
  std::vector<std::vector<double>> values;  ///< [row][column]
  bool annotate = false;                    ///< write the values into the cells
  double width = 760, row_height = 0;       ///< 0 = chosen
};
std::string render_svg(const HeatMap& map);

}  // namespace ctxc
