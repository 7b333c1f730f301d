// A table in Markdown, its columns aligned so that it reads well as plain text too.
#pragma once

#include <string>

#include "services/cli/report/table.h"

namespace tailor {

std::string MarkdownTable(const Table& table);

}  // namespace tailor
