// UTF-8 by the letter of the Unicode standard (table 3-7): no surrogates, no overlong forms,
// nothing past U+10FFFF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tailor {

enum class Utf8Kind {
  kCharacter,   // `length` bytes are one character
  kIncomplete,  // the text ends within what can still become a character
  kInvalid,     // `length` bytes can start no character, whatever follows
};

struct Utf8Unit {
  Utf8Kind kind;
  size_t length;  // at least 1
};

// The unit at the front of `text`, which is not empty. An invalid unit is a "maximal subpart": one
// U+FFFD stands for all of it, as in the WHATWG decoder and Python's errors="replace".
Utf8Unit NextUtf8(std::string_view text);

// The code point of a character unit.
char32_t DecodeUtf8(std::string_view character);

// Appends the code point's bytes.
void AppendUtf8(char32_t code_point, std::string& out);

// The offset of the first byte that is in no character; nullopt when all is well-formed.
std::optional<size_t> FirstInvalidUtf8(std::string_view text);

}  // namespace tailor
