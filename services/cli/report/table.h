// A table as the report writers share it: the first column names the row, the others hold figures.
#pragma once

#include <string>
#include <vector>

namespace tailor {

struct Table {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;  // each as long as header
};

}  // namespace tailor
