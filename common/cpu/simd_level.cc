#include "common/cpu/simd_level.h"

#include <cpuid.h>

#include <algorithm>
#include <cstdlib>

namespace tailor {
namespace {

// clang 14's __builtin_cpu_supports does not know f16c.
bool HasF16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

SimdLevel HardwareLevel() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16") &&
      __builtin_cpu_supports("fma")) {
    return SimdLevel::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c()) {
    return SimdLevel::kAvx2;
  }
  return SimdLevel::kScalar;
}

}  // namespace

SimdLevel DetectSimdLevel() {
  const SimdLevel hardware = HardwareLevel();
  const char* wanted = std::getenv("TAILOR_SIMD");
  if (wanted == nullptr) return hardware;
  const std::string_view name = wanted;
  if (name == "scalar") return SimdLevel::kScalar;
  if (name == "avx2") return std::min(hardware, SimdLevel::kAvx2);
  return hardware;
}

std::string_view ToString(SimdLevel level) {
  switch (level) {
    case SimdLevel::kScalar: return "scalar";
    case SimdLevel::kAvx2: return "avx2";
    case SimdLevel::kAvx512: return "avx512";
  }
  return "unknown";
}

}  // namespace tailor
