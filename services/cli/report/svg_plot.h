// Two kinds of plot as inline SVG: lines over a number, and bars with error bars. Text and axes
// take the page's own colour.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace tailor {

struct PlotAxes {
  std::string title;    // what screen readers say, too
  std::string x_label;  // of lines
  std::string y_label;
  double y_low = 0;   // the value axis begins here unless a value is lower
  double y_high = 0;  // and ends here unless a value is higher
};

struct PlotSeries {
  std::string name;
  size_t color = 0;  // in the palette: a thing keeps its colour from plot to plot
  std::vector<std::pair<double, double>> points;  // x ascending; a y that is no number is a gap
};

struct PlotBar {
  std::string name;
  size_t color = 0;
  double value = 0;
  double low = 0, high = 0;  // of the error bar; equal: none is drawn
};

// Where a value axis begins and ends, and its round step: about `count` of them.
struct AxisTicks {
  double low = 0, high = 0, step = 0;
  static AxisTicks Cover(double low, double high, int count);
};

std::string LinePlot(const PlotAxes& axes, std::span<const PlotSeries> series);
std::string BarPlot(const PlotAxes& axes, std::span<const PlotBar> bars);

}  // namespace tailor
