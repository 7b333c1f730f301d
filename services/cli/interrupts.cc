#include "services/cli/interrupts.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <utility>

#include "services/exit_code.h"

namespace tailor {
namespace {

// SIGUSR1 only wakes the thread up at the end.
sigset_t WatchedSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGUSR1);
  return signals;
}

// Not exit(): other threads may hold anything, and the server notices a closed stream.
[[noreturn]] void EndNow() {
  const char newline = '\n';
  if (isatty(STDERR_FILENO) == 1 && write(STDERR_FILENO, &newline, 1) < 0) _exit(kExitRuntime);
  _exit(kExitInterrupted);
}

}  // namespace

Interrupts::Interrupts() {
  const sigset_t signals = WatchedSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  thread_ = std::thread([this] { Run(); });
}

Interrupts::~Interrupts() {
  stopping_ = true;
  pthread_kill(thread_.native_handle(), SIGUSR1);
  thread_.join();
}

void Interrupts::Run() {
  const sigset_t signals = WatchedSignals();
  while (true) {
    int signal_number = 0;
    if (sigwait(&signals, &signal_number) != 0) continue;
    if (stopping_) return;
    if (signal_number == SIGTERM) EndNow();
    if (signal_number == SIGINT) HandleInterrupt();
  }
}

void Interrupts::HandleInterrupt() {
  const std::lock_guard lock(mutex_);
  if (!cancel_ || interrupted_.exchange(true)) EndNow();
  cancel_();
}

Interrupts::Scope::Scope(Interrupts& interrupts, std::function<void()> cancel)
    : interrupts_(interrupts) {
  const std::lock_guard lock(interrupts_.mutex_);
  interrupts_.interrupted_ = false;
  interrupts_.cancel_ = std::move(cancel);
}

Interrupts::Scope::~Scope() {
  const std::lock_guard lock(interrupts_.mutex_);
  interrupts_.cancel_ = nullptr;
}

}  // namespace tailor
