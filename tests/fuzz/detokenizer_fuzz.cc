// Any ids, two bytes each: whole characters come out, and together what all bytes at once give.

#include "common/text/detokenizer.h"

#include "common/status.h"
#include "common/text/utf8.h"
#include "tests/common/model_file/small_llama.h"
#include "tests/fuzz/fuzz_target.h"

namespace tailor {
namespace {

std::string Replaced(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const Utf8Unit unit = NextUtf8(text);
    out += unit.kind == Utf8Kind::kCharacter ? text.substr(0, unit.length) : "\xef\xbf\xbd";
    text.remove_prefix(unit.length);
  }
  return out;
}

std::string IdsOf(std::string_view text) {
  std::string bytes;
  for (const char c : text) {
    const int id = 3 + static_cast<uint8_t>(c);  // the small model's first byte is token 3
    bytes.push_back(static_cast<char>(id & 0xff));
    bytes.push_back(static_cast<char>(id >> 8));
  }
  return bytes;
}

}  // namespace

std::vector<std::string> Seeds() {
  return {IdsOf("naïve 速度 🙂"), IdsOf("\xf0\x9f\x99\xe2\x82\xed\xa0\x80\xc3"),
          std::string("\x00\x00\x01\x00\xc6\x00\x02\x00\x03\x01\xff\xff", 12)};
}

}  // namespace tailor

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tailor;
  static const auto tokenizer = Tokenizer::Create(MakeSmallLlama().tokenizer);
  TS_CHECK(tokenizer.ok());
  Detokenizer hidden(**tokenizer), shown(**tokenizer, ControlTokens::kShown);
  std::string hidden_text, shown_text, hidden_bytes, shown_bytes;
  for (size_t i = 0; i + 1 < size; i += 2) {
    const TokenId id = static_cast<int16_t>(data[i] | data[i + 1] << 8);
    const std::string a = hidden.Push(id), b = shown.Push(id);
    FUZZ_EXPECT(!FirstInvalidUtf8(a) && !FirstInvalidUtf8(b));
    hidden_text += a;
    shown_text += b;
    shown_bytes += (*tokenizer)->TokenBytes(id);
    if (!(*tokenizer)->IsControl(id)) hidden_bytes += (*tokenizer)->TokenBytes(id);
  }
  FUZZ_EXPECT(hidden_text + hidden.Flush() == Replaced(hidden_bytes));
  FUZZ_EXPECT(shown_text + shown.Flush() == Replaced(shown_bytes));
  return 0;
}
