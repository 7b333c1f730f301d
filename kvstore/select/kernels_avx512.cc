#include "kvstore/select/kernels_impl.h"

namespace tailor {

const SelectKernels kSelectKernelsAvx512 = kLoops;

}  // namespace tailor
