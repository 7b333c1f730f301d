#include "common/fingerprint.h"

#include <openssl/evp.h>

#include <cstring>

#include "common/status.h"

namespace tailor {

struct Fingerprinter::Context {
  EVP_MD_CTX* md = EVP_MD_CTX_new();
  ~Context() { EVP_MD_CTX_free(md); }
};

Fingerprinter::Fingerprinter() : context_(std::make_unique<Context>()) {
  TS_CHECK(context_->md != nullptr);
  TS_CHECK(EVP_DigestInit_ex(context_->md, EVP_sha256(), nullptr) == 1);
}

Fingerprinter::~Fingerprinter() = default;

Fingerprinter& Fingerprinter::AddBytes(std::span<const std::byte> bytes) {
  TS_CHECK(EVP_DigestUpdate(context_->md, bytes.data(), bytes.size()) == 1);
  return *this;
}

Fingerprinter& Fingerprinter::AddInt(int64_t value) {
  return AddBytes(std::as_bytes(std::span(&value, 1)));
}

Fingerprinter& Fingerprinter::AddString(std::string_view text) {
  AddInt(static_cast<int64_t>(text.size()));
  return AddBytes(std::as_bytes(std::span(text.data(), text.size())));
}

Fingerprint Fingerprinter::Finish() {
  Fingerprint out;
  unsigned int length = 0;
  TS_CHECK(EVP_DigestFinal_ex(context_->md, out.bytes.data(), &length) == 1);
  TS_CHECK(length == out.bytes.size());
  return out;
}

std::string Fingerprint::ToHex() const {
  static constexpr char kDigits[] = "0123456789abcdef";
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const uint8_t byte : bytes) {
    out.push_back(kDigits[byte >> 4]);
    out.push_back(kDigits[byte & 15]);
  }
  return out;
}

absl::StatusOr<Fingerprint> Fingerprint::FromHex(std::string_view hex) {
  Fingerprint out;
  if (hex.size() != out.bytes.size() * 2) {
    return absl::InvalidArgumentError(
        absl::StrCat("fingerprint has ", hex.size(), " digits, needs ", out.bytes.size() * 2));
  }
  for (size_t i = 0; i < hex.size(); ++i) {
    const char c = hex[i];
    int digit;
    if (c >= '0' && c <= '9') {
      digit = c - '0';
    } else if (c >= 'a' && c <= 'f') {
      digit = c - 'a' + 10;
    } else {
      return absl::InvalidArgumentError(
          absl::StrCat("fingerprint digit ", i, " is not lower-case hexadecimal"));
    }
    out.bytes[i / 2] = static_cast<uint8_t>((out.bytes[i / 2] << 4) | digit);
  }
  return out;
}

size_t FingerprintHash::operator()(const Fingerprint& f) const {
  size_t value;
  std::memcpy(&value, f.bytes.data(), sizeof(value));
  return value;
}

}  // namespace tailor
