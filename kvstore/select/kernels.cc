#include "kvstore/select/kernels.h"

#include "common/cpu/simd_level.h"
#include "kvstore/select/kernels_impl.h"

namespace tailor {

const SelectKernels kSelectKernelsScalar = kLoops;

const SelectKernels& ChooseSelectKernels() {
  switch (DetectSimdLevel()) {
    case SimdLevel::kAvx512:
      return kSelectKernelsAvx512;
    case SimdLevel::kAvx2:
      return kSelectKernelsAvx2;
    case SimdLevel::kScalar:
      break;
  }
  return kSelectKernelsScalar;
}

}  // namespace tailor
