#include "services/cli/spread_text.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace tailor {

std::string PlusMinus(const Spread& spread, double scale, const char* format) {
  const auto number = [&](double v) {
    return absl::StrFormat(*absl::ParsedFormat<'f'>::New(format), v * scale);
  };
  if (!spread.standard_error) return number(spread.mean);
  return absl::StrCat(number(spread.mean), " ± ", number(*spread.standard_error));
}

}  // namespace tailor
