#include "kvstore/transport/selection_threads.h"

#include <utility>

#include "common/shm/futex.h"

namespace tailor {
namespace {

// A sleeping thread looks around this often even when nobody wakes it.
constexpr int64_t kLongSleepNs = 1'000'000'000;

}  // namespace

SelectionThreads::SelectionThreads(ServedStore* store, int threads, int64_t spin_us,
                                   std::function<void()> on_broken)
    : store_(store),
      spin_ns_(spin_us * 1000),
      on_broken_(std::move(on_broken)),
      connections_(std::make_shared<const ConnectionList>()) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this, i] { Loop(i); });
}

SelectionThreads::~SelectionThreads() {
  stopping_.store(true, std::memory_order_release);
  waiter_.Ring();
  for (std::thread& thread : threads_) thread.join();
}

void SelectionThreads::SetConnections(ConnectionList connections) {
  auto next = std::make_shared<const ConnectionList>(std::move(connections));
  {
    std::lock_guard lock(mutex_);
    connections_.swap(next);
  }
  waiter_.Ring();  // sleepers watch the old list
}

std::shared_ptr<const ConnectionList> SelectionThreads::Snapshot() const {
  std::lock_guard lock(mutex_);
  return connections_;
}

bool SelectionThreads::ServeOne(const ConnectionList& connections, size_t first,
                                ServeScratch& scratch, std::vector<RingWaiter::Watched>& idle) {
  idle.clear();
  TakenRequest& taken = scratch.taken;
  for (size_t i = 0; i < connections.size(); ++i) {
    Connection& connection = *connections[(first + i) % connections.size()];
    if (connection.broken()) continue;
    RingWaiter::Watched empty;
    switch (connection.Take(&taken, &empty)) {
      case RingResult::kNotNow:
        idle.push_back(empty);
        break;
      case RingResult::kCorrupt:
        connection.MarkBroken();
        on_broken_();
        break;
      case RingResult::kOk:
        ServeRequest(taken, *store_, connection, scratch, counters_);
        return true;
    }
  }
  return false;
}

void SelectionThreads::Loop(int first) {
  ServeScratch scratch;
  std::vector<RingWaiter::Watched> idle;
  int64_t spin_until_ns = 0;
  size_t turn = static_cast<size_t>(first);
  while (!stopping_.load(std::memory_order_acquire)) {
    const uint32_t bell = waiter_.bell();  // before the list: news after this ends the sleep
    const std::shared_ptr<const ConnectionList> connections = Snapshot();
    if (ServeOne(*connections, turn++, scratch, idle)) {
      spin_until_ns = MonotonicNowNs() + spin_ns_;
      continue;
    }
    const int64_t now_ns = MonotonicNowNs();
    if (now_ns < spin_until_ns) {
      CpuRelax();
    } else {
      waiter_.Sleep(idle, bell, now_ns + kLongSleepNs);
    }
  }
}

}  // namespace tailor
