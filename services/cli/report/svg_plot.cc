#include "services/cli/report/svg_plot.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/cli/report/html_page.h"

namespace tailor {
namespace {

constexpr double kWidth = 720, kHeight = 360, kLeft = 70, kRight = 20, kTop = 20, kBottom = 60;
constexpr double kLegendWidth = 120;
constexpr int kTickCount = 5;
// Okabe and Ito's palette: told apart by the colour-blind. Its black would vanish on a dark page.
constexpr const char* kColors[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                   "#e69f00", "#56b4e9", "#999933"};

const char* ColorOf(size_t index) { return kColors[index % std::size(kColors)]; }

// Maps values to pixels and writes what all plots have.
class Canvas {
 public:
  Canvas(const PlotAxes& axes, const AxisTicks& y, double right_margin)
      : y_(y), right_(kWidth - right_margin) {
    absl::StrAppendFormat(&svg_,
                          "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" "
                          "width=\"%g\" height=\"%g\" role=\"img\" font-size=\"12\" "
                          "font-family=\"system-ui, sans-serif\" fill=\"currentColor\">\n",
                          kWidth, kHeight, kWidth, kHeight);
    absl::StrAppend(&svg_, "<title>", EscapeMarkup(axes.title), "</title>\n");
    const int steps = static_cast<int>(std::lround((y.high - y.low) / y.step));
    for (int i = 0; i <= steps; ++i) {
      const double value = y.low + i * y.step;
      Line(kLeft, Y(value), right_, Y(value), "currentColor", i == 0 ? 0.8 : 0.2);
      Text(kLeft - 8, Y(value) + 4, "end",
           absl::StrFormat("%.4g", std::abs(value) < y.step / 1e6 ? 0 : value));
    }
    Text(kLeft + (right_ - kLeft) / 2, kHeight - 12, "middle", axes.x_label);
    absl::StrAppendFormat(&svg_,
                          "<text transform=\"translate(16 %g) rotate(-90)\" "
                          "text-anchor=\"middle\">%s</text>\n",
                          (kTop + kHeight - kBottom) / 2, EscapeMarkup(axes.y_label));
  }

  double Y(double value) const {
    return kHeight - kBottom - (value - y_.low) / (y_.high - y_.low) * (kHeight - kBottom - kTop);
  }
  double right() const { return right_; }
  void Line(double x1, double y1, double x2, double y2, const char* color, double opacity) {
    absl::StrAppendFormat(&svg_,
                          "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" "
                          "stroke-opacity=\"%g\"/>\n",
                          x1, y1, x2, y2, color, opacity);
  }
  void Text(double x, double y, const char* anchor, const std::string& text) {
    absl::StrAppendFormat(&svg_, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y,
                          anchor, EscapeMarkup(text));
  }
  std::string& svg() { return svg_; }
  std::string Finish() { return svg_ + "</svg>\n"; }

 private:
  const AxisTicks y_;
  const double right_;
  std::string svg_;
};

struct Bounds {
  double low, high;
  void Add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
};

// A line with a marker at each point; gaps begin a new one.
void DrawSeries(const PlotSeries& series, const char* color, const Bounds& x, Canvas& canvas) {
  std::string path, markers;
  bool pen_down = false;
  for (const auto& [at, value] : series.points) {
    if (!std::isfinite(value)) {
      pen_down = false;
      continue;
    }
    const double px =
        kLeft + 10 + (at - x.low) / std::max(x.high - x.low, 1e-9) * (canvas.right() - kLeft - 20);
    absl::StrAppendFormat(&path, "%c%.1f %.1f", pen_down ? 'L' : 'M', px, canvas.Y(value));
    absl::StrAppendFormat(&markers,
                          "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\" fill=\"%s\"><title>%s, %g: "
                          "%.4g</title></circle>\n",
                          px, canvas.Y(value), color, EscapeMarkup(series.name), at, value);
    pen_down = true;
  }
  if (path.empty()) return;
  absl::StrAppendFormat(&canvas.svg(),
                        "<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\"/>\n", path,
                        color);
  canvas.svg() += markers;
}

}  // namespace

AxisTicks AxisTicks::Cover(double low, double high, int count) {
  if (!(high > low)) high = low + 1;
  const double rough = (high - low) / count;
  const double power = std::pow(10, std::floor(std::log10(rough)));
  AxisTicks ticks;
  for (const double factor : {1.0, 2.0, 2.5, 5.0, 10.0}) {
    ticks.step = factor * power;
    if (ticks.step >= rough * (1 - 1e-9)) break;
  }
  // A bound that rounding puts just past a tick is on it.
  ticks.low = std::floor(low / ticks.step + 1e-9) * ticks.step;
  ticks.high = std::ceil(high / ticks.step - 1e-9) * ticks.step;
  return ticks;
}

std::string LinePlot(const PlotAxes& axes, std::span<const PlotSeries> series) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Bounds x = {kInfinity, -kInfinity}, y = {axes.y_low, axes.y_high};
  for (const PlotSeries& s : series) {
    for (const auto& [at, value] : s.points) {
      x.Add(at);
      y.Add(value);
    }
  }
  if (x.low > x.high) x = {0, 1};
  Canvas canvas(axes, AxisTicks::Cover(y.low, y.high, kTickCount), kRight + kLegendWidth);
  // Labels at whole numbers only: what lines run over is counted.
  const double step = std::max(1.0, AxisTicks::Cover(x.low, x.high, 10).step);
  for (double at = std::ceil(x.low / step) * step; at <= x.high; at += step) {
    const double px =
        kLeft + 10 + (at - x.low) / std::max(x.high - x.low, 1e-9) * (canvas.right() - kLeft - 20);
    canvas.Text(px, kHeight - kBottom + 18, "middle", absl::StrFormat("%g", at));
  }
  for (size_t i = 0; i < series.size(); ++i) {
    DrawSeries(series[i], ColorOf(series[i].color), x, canvas);
    const double py = kTop + 10 + 20 * static_cast<double>(i);
    canvas.Line(canvas.right() + 12, py, canvas.right() + 32, py, ColorOf(series[i].color), 1);
    canvas.Text(canvas.right() + 38, py + 4, "start", series[i].name);
  }
  return canvas.Finish();
}

std::string BarPlot(const PlotAxes& axes, std::span<const PlotBar> bars) {
  Bounds y = {std::min(0.0, axes.y_low), axes.y_high};
  for (const PlotBar& bar : bars) {
    for (const double value : {bar.value, bar.low, bar.high}) y.Add(value);
  }
  Canvas canvas(axes, AxisTicks::Cover(y.low, y.high, kTickCount), kRight);
  const double slot =
      (canvas.right() - kLeft) / std::max<double>(1, static_cast<double>(bars.size()));
  for (size_t i = 0; i < bars.size(); ++i) {
    const PlotBar& bar = bars[i];
    const double middle = kLeft + slot * (static_cast<double>(i) + 0.5);
    const double half = std::min(slot * 0.35, 40.0);
    canvas.Text(middle, kHeight - kBottom + 18, "middle", bar.name);
    if (!std::isfinite(bar.value)) continue;
    const double top = canvas.Y(std::max(bar.value, 0.0)),
                 base = canvas.Y(std::min(bar.value, 0.0));
    absl::StrAppendFormat(&canvas.svg(),
                          "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\">"
                          "<title>%s: %.4g (%.4g to %.4g)</title></rect>\n",
                          middle - half, top, 2 * half, base - top, ColorOf(bar.color),
                          EscapeMarkup(bar.name), bar.value, bar.low, bar.high);
    if (bar.low == bar.high) continue;
    canvas.Line(middle, canvas.Y(bar.low), middle, canvas.Y(bar.high), "currentColor", 1);
    for (const double end : {bar.low, bar.high}) {
      canvas.Line(middle - 5, canvas.Y(end), middle + 5, canvas.Y(end), "currentColor", 1);
    }
  }
  return canvas.Finish();
}

}  // namespace tailor
