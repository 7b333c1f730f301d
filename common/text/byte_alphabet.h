// GPT-2's byte alphabet: each byte is written as one printable character, so that vocabularies are
// text. Source: openai/gpt-2, encoder.py, bytes_to_unicode.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tailor {

// The code point that stands for each byte: the byte itself when it is printable Latin-1, else the
// next of U+0100 onwards.
std::array<char32_t, 256> ByteAlphabet();

// Turns a vocabulary string back into its bytes. nullopt when a character stands for no byte.
class ByteDecoder {
 public:
  ByteDecoder();
  std::optional<std::string> Decode(std::string_view symbols) const;

 private:
  std::array<int16_t, 0x144> byte_of_;  // by code point; -1: none
};

}  // namespace tailor
