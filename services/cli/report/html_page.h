// One self-contained HTML page: no scripts, no other files, readable in light and dark.
#pragma once

#include <string>
#include <string_view>

#include "services/cli/report/table.h"

namespace tailor {

// The text with <, >, & and quotes made harmless, for HTML and SVG. Control characters, which
// neither allows, become spaces.
std::string EscapeMarkup(std::string_view text);

class HtmlPage {
 public:
  explicit HtmlPage(std::string_view title);
  void AddHeading(std::string_view text);
  void AddParagraph(std::string_view text);
  void AddTable(const Table& table);
  // `svg` is markup (services/cli/report/svg_plot.h), not escaped.
  void AddFigure(std::string_view svg, std::string_view caption);
  // The whole page; the object may grow on.
  std::string Finish() const;

 private:
  std::string title_, body_;
};

}  // namespace tailor
