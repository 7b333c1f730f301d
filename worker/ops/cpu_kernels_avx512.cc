#include "worker/ops/cpu_kernels_impl.h"
