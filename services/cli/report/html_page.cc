#include "services/cli/report/html_page.h"

#include "absl/strings/str_cat.h"

namespace tailor {
namespace {

constexpr char kStyle[] = R"(
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #8886; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.5rem 0; } figcaption { font-size: .9rem; opacity: .8; }
svg { max-width: 100%; height: auto; }
)";

std::string Row(const std::vector<std::string>& cells, std::string_view tag) {
  std::string row = "<tr>";
  for (const std::string& cell : cells) {
    row.append("<").append(tag).append(">").append(EscapeMarkup(cell));
    row.append("</").append(tag).append(">");
  }
  return row + "</tr>\n";
}

}  // namespace

std::string EscapeMarkup(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '&':
        out += "&amp;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    }
  }
  return out;
}

HtmlPage::HtmlPage(std::string_view title) : title_(EscapeMarkup(title)) {}

void HtmlPage::AddHeading(std::string_view text) {
  absl::StrAppend(&body_, "<h2>", EscapeMarkup(text), "</h2>\n");
}

void HtmlPage::AddParagraph(std::string_view text) {
  absl::StrAppend(&body_, "<p>", EscapeMarkup(text), "</p>\n");
}

void HtmlPage::AddTable(const Table& table) {
  absl::StrAppend(&body_, "<div class=\"scroll\"><table>\n<thead>", Row(table.header, "th"),
                  "</thead>\n<tbody>\n");
  for (const auto& row : table.rows) body_ += Row(row, "td");
  body_ += "</tbody>\n</table></div>\n";
}

void HtmlPage::AddFigure(std::string_view svg, std::string_view caption) {
  body_.append("<figure>\n").append(svg);
  absl::StrAppend(&body_, "<figcaption>", EscapeMarkup(caption), "</figcaption>\n</figure>\n");
}

std::string HtmlPage::Finish() const {
  return absl::StrCat(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
      title_, "</title>\n<style>", kStyle, "</style>\n</head>\n<body>\n<h1>", title_, "</h1>\n",
      body_, "</body>\n</html>\n");
}

}  // namespace tailor
