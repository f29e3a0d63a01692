// Pictures and pages: valid XML, data where they belong, nothing that needs a network.
#include "eval/chart.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "eval/html.h"

namespace ctxc {
namespace {

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++found;
  return found;
}

TEST(Axis, LinearTicksAreRoundAndInside) {
  const Axis axis(3.1, 97, 0, 700);
  EXPECT_DOUBLE_EQ(axis.low(), 0);
  EXPECT_DOUBLE_EQ(axis.high(), 100);
  ASSERT_EQ(axis.ticks().size(), 11u);
  EXPECT_EQ(axis.ticks()[3].label, "30");
  EXPECT_NEAR(axis.pixel(50), 350, 1e-9);
}

TEST(Axis, LogTicksLabelDecades) {
  const Axis axis(1, 1e4, 0, 400, true);
  std::string labels;
  for (const Axis::Tick& tick : axis.ticks())
    if (!tick.label.empty()) labels += tick.label + "|";
  EXPECT_EQ(labels, "1|10|100|1000|10 k|");
  EXPECT_NEAR(axis.pixel(100), 200, 1e-9);
}

TEST(Axis, EqualEndsAreWidened) {
  for (double value : {0.0, 5.0, -2.0}) {
    const Axis axis(value, value, 0, 100);
    EXPECT_LT(axis.low(), axis.high());
    EXPECT_TRUE(std::isfinite(axis.pixel(value)));
  }
}

TEST(TickLabel, ShortForms) {
  EXPECT_EQ(tick_label(0), "0");
  EXPECT_EQ(tick_label(0.25, 0.05), "0.25");
  EXPECT_EQ(tick_label(120000), "120 k");
  EXPECT_EQ(tick_label(3e-5), "3e-05");
}

TEST(LineChart, GapsAndEmptySeriesAreLegal) {
  LineChart chart;
  chart.title = "a < b & \"c\"";
  EXPECT_NE(render_svg(chart).find("no data yet"), std::string::npos);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  Series series;
  series.name = "loss";
  series.x = {1, 2, 3, 4};
  series.y = {4, nan, 2, 1};
  chart.series = {series};
  const std::string svg = render_svg(chart);
  EXPECT_NE(svg.find("a &lt; b &amp; &quot;c&quot;"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(count(svg, "<circle"), 3u);  // three points are drawn, the gap is not
}

TEST(LineChart, LogAxisLeavesOutWhatIsNotPositive) {
  LineChart chart;
  chart.log_y = true;
  Series series;
  series.x = {0, 1, 2};
  series.y = {-1, 0, 10};
  chart.series = {series};
  EXPECT_EQ(count(render_svg(chart), "<circle"), 1u);
}

TEST(LineChart, LongCurvesStaySmallAndKeepSpikes) {
  LineChart chart;
  Series series;
  for (int i = 0; i < 200'000; ++i) {
    series.x.push_back(i);
    series.y.push_back(i == 123'456 ? 50 : 1);
  }
  chart.series = {series};
  const std::string svg = render_svg(chart);
  EXPECT_LT(svg.size(), 60'000u);
  const Axis y(1, 50, chart.height - 44, 58);
  EXPECT_NE(svg.find(fmt::format(",{:.2f}", y.pixel(50))), std::string::npos);
}

TEST(Smooth, ConstantStaysConstantFromTheFirstPoint) {
  const std::vector<double> y(10, 3.0);
  for (double value : smooth(y, 4)) EXPECT_NEAR(value, 3.0, 1e-12);
}

TEST(IntervalChart, OneRowForEveryEstimate) {
  IntervalChart chart;
  chart.groups = {{"squad", {{"full", 60, 55, 65}, {"none", 9, 8, 10}}}, {"newsqa", {{"full", 40, 30, 50}}}};
  const std::string svg = render_svg(chart);
  EXPECT_EQ(count(svg, "<circle"), 3u);
  EXPECT_NE(svg.find("full on squad: 60.0 (55.0 to 65.0)"), std::string::npos);
}

TEST(HeatMap, EveryCellIsDrawn) {
  HeatMap map;
  map.values = {{0, 1, 2}, {3, 4, std::numeric_limits<double>::quiet_NaN()}};
  map.columns = {"<s>", " the", "x"};
  const std::string svg = render_svg(map);
  EXPECT_EQ(count(svg, "<rect"), 6u + 24u);  // cells and the scale
  EXPECT_NE(svg.find("&lt;s&gt;"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

TEST(HtmlPage, EscapesTextAndNeedsNoNetwork) {
  HtmlPage page("run <1>");
  page.table({{"set", "F1"}, {"a&b", "45.0 [42.1, 47.9]"}});
  page.paragraph("<script>alert(1)</script>");
  const std::string html = page.str();
  EXPECT_NE(html.find("run &lt;1&gt;"), std::string::npos);
  EXPECT_NE(html.find("<td class=\"n\">45.0 [42.1, 47.9]</td>"), std::string::npos);
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_EQ(html.find("src="), std::string::npos);
  EXPECT_EQ(html.find("href="), std::string::npos);
}

}  // namespace
}  // namespace ctxc
