#include "services/cli/report/markdown_table.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"

namespace tailor {
namespace {

std::string Escape(const std::string& cell) { return absl::StrReplaceAll(cell, {{"|", "\\|"}}); }

// Characters, not bytes: "±" is one.
size_t Width(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

std::string Line(const std::vector<std::string>& cells, const std::vector<size_t>& widths) {
  std::string line = "|";
  for (size_t i = 0; i < cells.size(); ++i) {
    const std::string cell = Escape(cells[i]), padding(widths[i] - Width(cell), ' ');
    absl::StrAppend(&line, " ", i == 0 ? cell + padding : padding + cell, " |");
  }
  return line + "\n";
}

}  // namespace

std::string MarkdownTable(const Table& table) {
  std::vector<size_t> widths;
  for (size_t i = 0; i < table.header.size(); ++i) {
    size_t width = std::max<size_t>(3, Width(Escape(table.header[i])));
    for (const auto& row : table.rows) width = std::max(width, Width(Escape(row[i])));
    widths.push_back(width);
  }
  std::string out = Line(table.header, widths) + "|";
  for (size_t i = 0; i < widths.size(); ++i) {
    const std::string dashes(widths[i] - 1, '-');
    absl::StrAppend(&out, " ", i == 0 ? dashes + "-" : dashes + ":", " |");
  }
  out += "\n";
  for (const auto& row : table.rows) out += Line(row, widths);
  return out;
}

}  // namespace tailor
