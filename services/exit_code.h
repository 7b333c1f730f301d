// The exit codes that all our processes share: `tailor up` reads its children's.
#pragma once

namespace tailor {

enum ExitCode : int {
  kExitOk = 0,
  kExitRuntime = 1,
  kExitUsage = 2,
  kExitBadModel = 3,
  kExitNoMemory = 4,
  kExitPortBusy = 5,
  kExitNoDevice = 6,    // a worker told --backend cuda found no device that can run it
  kExitLostStore = 75,  // EX_TEMPFAIL: a worker whose store went away; start it again
  kExitInterrupted = 130,
};

}  // namespace tailor
