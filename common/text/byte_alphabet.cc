#include "common/text/byte_alphabet.h"

#include "common/text/utf8.h"

namespace tailor {

std::array<char32_t, 256> ByteAlphabet() {
  std::array<char32_t, 256> alphabet = {};
  char32_t next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
    alphabet[byte] = printable ? static_cast<char32_t>(byte) : next++;
  }
  return alphabet;
}

ByteDecoder::ByteDecoder() {
  byte_of_.fill(-1);
  const auto alphabet = ByteAlphabet();
  for (int byte = 0; byte < 256; ++byte) byte_of_[alphabet[byte]] = static_cast<int16_t>(byte);
}

std::optional<std::string> ByteDecoder::Decode(std::string_view symbols) const {
  std::string bytes;
  while (!symbols.empty()) {
    const Utf8Unit unit = NextUtf8(symbols);
    if (unit.kind != Utf8Kind::kCharacter) return std::nullopt;
    const char32_t code_point = DecodeUtf8(symbols.substr(0, unit.length));
    if (code_point >= byte_of_.size() || byte_of_[code_point] < 0) return std::nullopt;
    bytes.push_back(static_cast<char>(byte_of_[code_point]));
    symbols.remove_prefix(unit.length);
  }
  return bytes;
}

}  // namespace tailor
