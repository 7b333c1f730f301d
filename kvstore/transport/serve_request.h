// One request from a ring: checked, served, answered. Nothing here trusts the request.
#pragma once

#include <atomic>
#include <cstdint>

#include "kvstore/transport/connection.h"
#include "kvstore/transport/served_store.h"

namespace tailor {

// Counted by all selection threads together, since the start.
struct RequestCounters {
  std::atomic<int64_t> requests{0};
  std::atomic<int64_t> malformed{0};
  std::atomic<int64_t> late{0};
  std::atomic<int64_t> stale_epoch{0};
};

// Scratch of one thread.
struct ServeScratch {
  TakenRequest taken;
  SelectScratch select;
  Selection selection;
};

// Answers `taken` on its connection, with rows or with a status: always exactly once.
void ServeRequest(const TakenRequest& taken, ServedStore& store, Connection& connection,
                  ServeScratch& scratch, RequestCounters& counters);

}  // namespace tailor
