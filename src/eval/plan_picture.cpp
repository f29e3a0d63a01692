#include "eval/plan_picture.h"

#include <fmt/format.h>

#include <algorithm>

#include "eval/svg.h"

namespace ctxc {
namespace {

constexpr double kCell = 15, kThin = 8, kLeft = 96, kTop = 44, kGap = 14, kLabel = 11;
constexpr double kFaintest = 0.004;  // smaller values are the colour of nothing and take no element

/// Space below a window for its tokens, turned upwards.
double label_height(const PlanWindow& window) {
  double longest = 0;
  for (const std::string& token : window.tokens) longest = std::max(longest, text_width(token, kLabel));
  return longest + 2 * kGap;
}

double window_height(const PlanWindow& window) {
  return kThin * static_cast<double>(window.weights.size()) + kGap +
         kCell * static_cast<double>(window.shares.size()) + label_height(window) + 2 * kGap;
}

/// One block of cells, darkest at `scale`; `name` of a row goes into the tooltip.
void draw_cells(Svg& svg, const PlanWindow& window, const std::vector<std::vector<double>>& values,
                double top, double height, double scale, const std::string& row_name, int64_t first_row) {
  const double width = kCell * static_cast<double>(window.tokens.size());
  svg.rect(kLeft, top, width, height * static_cast<double>(values.size()), heat_color(0));
  for (size_t row = 0; row < values.size(); ++row)
    for (size_t column = 0; column < values[row].size(); ++column) {
      const double value = values[row][column];
      if (value < kFaintest) continue;
      svg.rect(kLeft + kCell * static_cast<double>(column), top + height * static_cast<double>(row), kCell,
               height, heat_color(std::min(value / scale, 1.0)), 1,
               fmt::format("{} {} · {} · {:.1f} %", row_name, first_row + static_cast<int64_t>(row),
                           window.tokens[column], 100 * value));
    }
}

void draw_row_numbers(Svg& svg, size_t rows, double top, double height, int64_t first, size_t every) {
  for (size_t row = 0; row < rows; row += every)
    svg.text(kLeft - 6, top + height * (static_cast<double>(row) + 0.5) + 4,
             std::to_string(first + static_cast<int64_t>(row)),
             {.size = 10, .anchor = Svg::Anchor::kEnd, .opacity = 0.7});
}

void draw_tokens(Svg& svg, const PlanWindow& window, double top) {
  for (size_t column = 0; column < window.tokens.size(); ++column)
    svg.text(kLeft + kCell * (static_cast<double>(column) + 0.5) + 4, top + 6, window.tokens[column],
             {.size = kLabel, .anchor = Svg::Anchor::kEnd, .turn = -90});
}

double largest(const std::vector<std::vector<double>>& values) {
  double result = 1e-9;
  for (const auto& row : values)
    for (double value : row) result = std::max(result, value);
  return result;
}

}  // namespace

std::string render_plan(const std::vector<PlanWindow>& windows, const std::string& title) {
  double height = kTop, width = 480;
  for (const PlanWindow& window : windows) {
    height += window_height(window);
    width = std::max(width, kLeft + kCell * static_cast<double>(window.tokens.size()) + kGap);
  }
  Svg svg(width, height);
  svg.text(kLeft, 24, title, {.size = 14, .bold = true});
  double top = kTop;
  for (const PlanWindow& window : windows) {
    const double weights = kThin * static_cast<double>(window.weights.size());
    const double shares = kCell * static_cast<double>(window.shares.size()), plan = top + weights + kGap;
    if (!window.weights.empty()) {
      draw_cells(svg, window, window.weights, top, kThin, 1, "hidden state", 0);
      draw_row_numbers(svg, window.weights.size(), top, kThin, 0, 4);
      svg.text(16, top + weights / 2, "layer", {.size = 12, .anchor = Svg::Anchor::kMiddle, .turn = -90});
    }
    draw_cells(svg, window, window.shares, plan, kCell, largest(window.shares), "slot", window.first_slot);
    draw_row_numbers(svg, window.shares.size(), plan, kCell, window.first_slot, 1);
    svg.text(16, plan + shares / 2, "slot", {.size = 12, .anchor = Svg::Anchor::kMiddle, .turn = -90});
    draw_tokens(svg, window, plan + shares);
    top += window_height(window);
  }
  return svg.str(title);
}

}  // namespace ctxc
