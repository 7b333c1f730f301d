// What each *_fuzz.cc defines. fuzz_main.cc drives it as a plain test; libFuzzer brings its own
// main.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

// Takes any bytes; aborts (or lets a sanitizer abort) when the code under test breaks a promise.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace tailor {

// Inputs that reach deep: what mutations start from.
std::vector<std::string> Seeds();

inline std::string_view AsText(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace tailor

// A promise of the code under test.
#define FUZZ_EXPECT(condition)                                                             \
  do {                                                                                     \
    if (!(condition)) {                                                                    \
      std::fprintf(stderr, "%s:%d: broken promise: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                        \
    }                                                                                      \
  } while (false)
