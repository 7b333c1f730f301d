#include "tests/fuzz/mutate.h"

#include <algorithm>
#include <array>
#include <random>

namespace tailor {
namespace {

using Random = std::mt19937_64;

constexpr size_t kMaxBytes = 1 << 16;

// Borders of the integer types, and what lengths and counts are compared with.
constexpr std::array<uint64_t, 16> kIntegers = {0,
                                                1,
                                                0x7f,
                                                0xff,
                                                0x7fff,
                                                0xffff,
                                                0x10000,
                                                0x7fffffff,
                                                0x80000000,
                                                0xffffffff,
                                                0x100000000,
                                                0x7fffffffffffffff,
                                                0x8000000000000000,
                                                0xffffffffffffffff,
                                                0xfffffffffffffff8,
                                                1 << 20};

size_t Below(Random& random, size_t limit) { return limit == 0 ? 0 : random() % limit; }

void FlipBit(std::string& bytes, Random& random) {
  if (!bytes.empty()) bytes[Below(random, bytes.size())] ^= static_cast<char>(1 << random() % 8);
}

void SetByte(std::string& bytes, Random& random) {
  if (!bytes.empty()) bytes[Below(random, bytes.size())] = static_cast<char>(random());
}

// Over what is there, as 4 or 8 bytes; or in decimal, for the text formats.
void PlaceInteger(std::string& bytes, Random& random) {
  const uint64_t value = kIntegers[random() % kIntegers.size()] + random() % 3 - 1;
  const size_t at = Below(random, bytes.size() + 1);
  if (random() % 3 == 0) {
    size_t digits = 0;
    while (at + digits < bytes.size() && bytes[at + digits] >= '0' && bytes[at + digits] <= '9') {
      ++digits;
    }
    bytes.replace(at, digits, std::to_string(value));
    return;
  }
  const size_t width = random() % 2 == 0 ? 4 : 8;
  const std::string raw(reinterpret_cast<const char*>(&value), width);
  bytes.replace(at, std::min(width, bytes.size() - at), raw);
}

void Truncate(std::string& bytes, Random& random) { bytes.resize(Below(random, bytes.size() + 1)); }

void EraseRange(std::string& bytes, Random& random) {
  bytes.erase(Below(random, bytes.size() + 1), 1 + random() % 16);
}

void DoubleRange(std::string& bytes, Random& random) {
  const std::string part = bytes.substr(Below(random, bytes.size() + 1), 1 + random() % 64);
  bytes.insert(Below(random, bytes.size() + 1), part);
}

}  // namespace

std::string NumberedInput(const std::vector<std::string>& seeds, uint64_t number) {
  if (number < seeds.size()) return seeds[number];
  Random random(number);
  std::string bytes = seeds[random() % seeds.size()];
  for (uint64_t changes = 1 + random() % 4; changes > 0; --changes) {
    const uint64_t kind = random() % 16;
    if (kind < 5) {
      FlipBit(bytes, random);
    } else if (kind < 8) {
      SetByte(bytes, random);
    } else if (kind < 11) {
      PlaceInteger(bytes, random);
    } else if (kind < 12) {
      Truncate(bytes, random);
    } else if (kind < 13) {
      EraseRange(bytes, random);
    } else if (kind < 15) {
      DoubleRange(bytes, random);
    } else {  // splice: the front of this one, the back of another
      const std::string& other = seeds[random() % seeds.size()];
      bytes = bytes.substr(0, Below(random, bytes.size() + 1)) +
              other.substr(Below(random, other.size() + 1));
    }
  }
  if (bytes.size() > kMaxBytes) bytes.resize(kMaxBytes);
  return bytes;
}

}  // namespace tailor
