#!/usr/bin/env python3
"""emulate.py IN OUT: a CUDA source as C++ over tests/gpu/emulator/simt.h: launches go through the
emulator's LaunchKernel, shared arrays of dynamic size become a pointer. Everything else stays as it is."""

import re
import sys

source = open(sys.argv[1], encoding="utf-8").read()
source = re.sub(r"\bLaunchKernel\(", "emulator::LaunchKernel(", source)
source = re.sub(r"extern __shared__ (\w+) (\w+)\[\];",
                r"\1* \2 = static_cast<\1*>(emulator::DynamicShared());", source)
source = source.replace("#include <cuda_fp16.h>", '#include "tests/gpu/emulator/simt.h"')
if "<<<" in source:
    sys.exit(f"{sys.argv[1]}: a launch that is not LaunchKernel's would be missing from a step's graph")
open(sys.argv[2], "w", encoding="utf-8").write(source)
