#include "common/cpu/simd_level.h"

#include <algorithm>
#include <cstdlib>

namespace tailor {
namespace {

SimdLevel HardwareLevel() {
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16") &&
      __builtin_cpu_supports("fma")) {
    return SimdLevel::kAvx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
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
