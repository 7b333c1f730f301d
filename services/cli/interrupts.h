// Ctrl-C: cancels the answer that is being written, or ends the program when there is none.
#pragma once

#include <atomic>
#include <functional>
#include <mutex>
#include <thread>

namespace tailor {

// Blocks SIGINT and SIGTERM for this thread and those it starts later (make it before any gRPC
// call), and waits for them on a thread of its own. One object a process.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // While a Scope lives, SIGINT calls `cancel` (on another thread) instead of ending the program; a
  // second one ends it after all. SIGTERM always ends it. Scopes do not nest.
  class Scope {
   public:
    Scope(Interrupts& interrupts, std::function<void()> cancel);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;
    bool interrupted() const { return interrupts_.interrupted_; }

   private:
    Interrupts& interrupts_;
  };

 private:
  void Run();
  void HandleInterrupt();

  std::mutex mutex_;
  std::function<void()> cancel_;  // guarded by mutex_; empty: nothing to cancel
  std::atomic<bool> interrupted_ = false;
  std::atomic<bool> stopping_ = false;
  std::thread thread_;
};

}  // namespace tailor
