// How a report writes a mean and how sure it is.
#pragma once

#include <string>

#include "worker/quality/statistics.h"

namespace tailor {

// "1.25 ± 0.02", both scaled; without the error where there is none. `format` is printf's for one
// double.
std::string PlusMinus(const Spread& spread, double scale, const char* format);

}  // namespace tailor
