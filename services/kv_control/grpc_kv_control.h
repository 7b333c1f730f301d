// KvControl over gRPC: what a worker gives to ShmKvClient.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kvstore/client/kv_control.h"

namespace tailor {

struct GrpcKvControlOptions {
  // The store's control address: "unix:/path" or "host:port".
  std::string address;
  // Of every call but the two below. Longer: survives a busy store. Shorter: a dead one is found.
  int64_t call_timeout_ms = 5000;
  // Sealing builds the index and verifying reads every row of the pages: time for each page
  // besides.
  int64_t page_timeout_ms = 200;
};

// Does not connect by itself: the first call does, and waits for the store until its deadline.
std::unique_ptr<KvControl> MakeGrpcKvControl(const GrpcKvControlOptions& options);

}  // namespace tailor
