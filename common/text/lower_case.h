// Lower case as Python's str.lower() writes it, for comparing without regard to case.
#pragma once

#include <string>
#include <string_view>

namespace tailor {

// By Unicode 14.0's default mapping, with one departure: a capital sigma at the end of a word
// becomes an ordinary small one. Bytes that are no character stay.
std::string LowerCase(std::string_view utf8);

}  // namespace tailor
