#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "services/cli/report/html_page.h"
#include "services/cli/report/markdown_table.h"
#include "services/cli/report/svg_plot.h"
#include "tests/services/cli/report/markup.h"

namespace tailor {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr char kHostile[] = "<script>\"a\" & 'b'</script>\x01";

int Count(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(MarkupTest, TheCheckerCatchesWhatItIsFor) {
  EXPECT_EQ(MarkupError("<p a=\"x > y\">b &amp; c<br/></p>"), "");
  for (const char* bad : {"<p>", "</p>", "<p><b></p></b>", "a > b", "a & b", "<p", "<a <b>>"}) {
    EXPECT_NE(MarkupError(bad), "") << bad;
  }
}

TEST(MarkdownTableTest, ColumnsAreAlignedByCharactersAndBarsEscaped) {
  EXPECT_EQ(MarkdownTable({.header = {"m", "value"}, .rows = {{"a|b", "1 ± 2"}, {"long", "3"}}}),
            "| m    | value |\n"
            "| ---- | ----: |\n"
            "| a\\|b | 1 ± 2 |\n"
            "| long |     3 |\n");
}

TEST(HtmlPageTest, APageIsBalancedAndTextInItHarmless) {
  HtmlPage page(kHostile);
  page.AddHeading(kHostile);
  page.AddParagraph(kHostile);
  page.AddTable({.header = {"a", kHostile}, .rows = {{kHostile, "1"}}});
  page.AddFigure("<svg><g/></svg>\n", kHostile);
  const std::string html = page.Finish();
  EXPECT_EQ(MarkupError(html), "");
  EXPECT_THAT(html, Not(HasSubstr("<script>")));
  EXPECT_THAT(html, Not(HasSubstr("\x01")));
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;&quot;a&quot; &amp; &#39;b&#39;"));
}

TEST(AxisTicksTest, StepsAreRoundAndCoverTheValues) {
  const AxisTicks one = AxisTicks::Cover(0, 1, 5);
  EXPECT_DOUBLE_EQ(one.step, 0.2);
  EXPECT_DOUBLE_EQ(one.high, 1);
  const AxisTicks small = AxisTicks::Cover(-0.0031, 0.0242, 5);
  EXPECT_DOUBLE_EQ(small.step, 0.01);
  EXPECT_DOUBLE_EQ(small.low, -0.01);
  EXPECT_DOUBLE_EQ(small.high, 0.03);
  const AxisTicks nothing = AxisTicks::Cover(2, 2, 5);
  EXPECT_GT(nothing.high, nothing.low);
}

TEST(LinePlotTest, AGapBreaksTheLineAndEveryPointHasItsMarker) {
  const std::vector<PlotSeries> series = {
      {"a", 0, {{0, kNaN}, {1, 0.5}, {2, 0.25}, {3, kNaN}, {4, 1}}},
      {kHostile, 3, {{0, 0}, {4, 0.75}}}};
  const std::string svg = LinePlot(
      {.title = kHostile, .x_label = "layer", .y_label = "recall", .y_low = 0, .y_high = 1},
      series);
  EXPECT_EQ(MarkupError(svg), "");
  EXPECT_EQ(Count(svg, "<circle"), 5);
  EXPECT_EQ(Count(svg, "<path"), 2);
  const std::string path =
      svg.substr(svg.find("<path"), svg.find("/>", svg.find("<path")) - svg.find("<path"));
  EXPECT_EQ(Count(path, "M"), 2) << path;
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

TEST(LinePlotTest, NothingToDrawIsStillAPlot) {
  EXPECT_EQ(MarkupError(LinePlot({}, {})), "");
  EXPECT_EQ(MarkupError(BarPlot({}, {})), "");
  const std::vector<PlotSeries> gaps = {{"a", 0, {{0, kNaN}}}};
  EXPECT_THAT(LinePlot({}, gaps), Not(HasSubstr("nan")));
}

TEST(BarPlotTest, ErrorBarsAreDrawnWhereThereIsAnError) {
  const std::vector<PlotBar> bars = {
      {"a", 0, 2, 1, 3}, {"b", 1, -1, -1, -1}, {"c", 9, kNaN, kNaN, kNaN}};
  const PlotAxes axes = {.title = "t", .x_label = "", .y_label = "y", .y_low = 0, .y_high = 0};
  const std::string with = BarPlot(axes, bars);
  EXPECT_EQ(MarkupError(with), "");
  EXPECT_EQ(Count(with, "<rect"), 2);
  EXPECT_THAT(with, Not(HasSubstr("nan")));
  EXPECT_THAT(with, Not(HasSubstr("height=\"-"))) << "a bar below zero hangs from the axis";
  // The stem and its two ends.
  const std::vector<PlotBar> without = {{"a", 0, 2, 2, 2}, {"b", 1, -1, -1, -1}, {"d", 2, 3, 3, 3}};
  EXPECT_EQ(Count(with, "<line") - Count(BarPlot(axes, without), "<line"), 3);
}

}  // namespace
}  // namespace tailor
