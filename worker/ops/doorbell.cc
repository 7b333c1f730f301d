#include "worker/ops/doorbell.h"

#include <algorithm>
#include <thread>

#include "common/status.h"

namespace tailor {

absl::StatusOr<std::span<std::byte>> HostDoorbell::Shared(int64_t bytes) {
  const auto blocks = (static_cast<size_t>(bytes) + sizeof(Block) - 1) / sizeof(Block);
  const std::span<Block> memory = shared_.emplace_back(blocks);
  return std::span(memory.front().bytes, static_cast<size_t>(bytes));
}

void HostDoorbell::Ring(std::span<const float> q, const DoorbellMemory& memory, uint64_t number) {
  TS_CHECK(static_cast<int64_t>(q.size()) <= memory.query_floats());
  std::copy(q.begin(), q.end(), memory.query(number));
  memory.words().rung.store(number,
                            std::memory_order_release);  // pairs with DoorbellLine's acquire
}

void HostDoorbell::Await(const DoorbellMemory& memory, uint64_t number) {
  // Pairs with DoorbellLine's release. Yields: the one who answers may need this core.
  while (memory.words().answered.load(std::memory_order_acquire) < number) {
    std::this_thread::yield();
  }
}

}  // namespace tailor
