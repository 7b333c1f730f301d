#include "kvstore/select/kernels_impl.h"

namespace tailor {

const SelectKernels kSelectKernelsAvx2 = kLoops;

}  // namespace tailor
