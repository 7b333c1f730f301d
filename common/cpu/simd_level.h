// Which SIMD kernels this process uses: chosen once at start, passed to whoever dispatches.
#pragma once

#include <string_view>

namespace tailor {

enum class SimdLevel {
  kScalar = 0,
  kAvx2 = 1,    // AVX2 + FMA + F16C
  kAvx512 = 2,  // AVX-512 F, BW, VL, DQ, VNNI, BF16 (Zen 4, Sapphire Rapids)
};

// The best level this CPU offers; TAILOR_SIMD=scalar|avx2|avx512 lowers it (never raises it).
SimdLevel DetectSimdLevel();
std::string_view ToString(SimdLevel level);

}  // namespace tailor
