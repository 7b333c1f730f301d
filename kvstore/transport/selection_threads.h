// The threads that answer selections, from the rings of all connections in turn.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "common/shm/ring_waiter.h"
#include "kvstore/transport/connection.h"
#include "kvstore/transport/serve_request.h"

namespace tailor {

using ConnectionList = std::vector<std::shared_ptr<Connection>>;

class SelectionThreads {
 public:
  // `on_broken` is called, from any of the threads, after a connection was marked broken.
  SelectionThreads(ServedStore* store, int threads, int64_t spin_us,
                   std::function<void()> on_broken);
  ~SelectionThreads();  // finishes what was taken up, then ends

  // Replaces the connections that are served. A thread may still be at work for a removed one.
  void SetConnections(ConnectionList connections);
  const RequestCounters& counters() const { return counters_; }

 private:
  void Loop(int first);
  // Serves at most one request; starts looking at connection `first`. Fills `idle` with the rings
  // that were empty.
  bool ServeOne(const ConnectionList& connections, size_t first, ServeScratch& scratch,
                std::vector<RingWaiter::Watched>& idle);
  std::shared_ptr<const ConnectionList> Snapshot() const;

  ServedStore* const store_;
  const int64_t spin_ns_;
  const std::function<void()> on_broken_;
  RequestCounters counters_;
  RingWaiter waiter_;
  std::atomic<bool> stopping_{false};
  mutable std::mutex mutex_;
  std::shared_ptr<const ConnectionList> connections_;  // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace tailor
