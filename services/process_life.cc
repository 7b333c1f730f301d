#include "services/process_life.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/types.h>
#include <unistd.h>

#include <string_view>

#include "common/log.h"

namespace tailor {
namespace {

sigset_t StopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  return signals;
}

}  // namespace

void BlockStopSignals() {
  const sigset_t signals = StopSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

int AwaitStopSignal() {
  const sigset_t signals = StopSignals();
  int signal_number = 0;
  while (sigwait(&signals, &signal_number) != 0) {
  }
  return signal_number;
}

void DieWithParent() {
  const pid_t parent = getppid();
  prctl(PR_SET_PDEATHSIG, SIGTERM);
  // It may have ended in between. (That the parent is process 1 says nothing: in a container the
  // supervisor may be that.)
  if (getppid() != parent) raise(SIGTERM);
}

void AnnounceReady(int fd) {
  if (fd < 0) return;
  constexpr std::string_view kReady = "ready\n";
  if (write(fd, kReady.data(), kReady.size()) != static_cast<ssize_t>(kReady.size())) {
    spdlog::warn("nobody reads the ready descriptor {}", fd);
  }
  close(fd);
}

}  // namespace tailor
