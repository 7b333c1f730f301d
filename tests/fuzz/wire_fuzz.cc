// What crosses between worker and store: a ring geometry that is called sound keeps every part
// inside the ring; a hostile request gets exactly one well-formed answer.

#include <algorithm>
#include <cstring>
#include <optional>

#include "kvstore/transport/serve_request.h"
#include "tests/fuzz/fuzz_target.h"
#include "tests/kvstore/transport/fake_store.h"

namespace tailor {
namespace {

constexpr uint32_t kQueryFloats = 64;

void CheckGeometry(const wire::RingGeometry& g) {
  if (!wire::IsSound(g)) return;
  const auto inside = [&](uint64_t offset, uint64_t count, uint64_t bytes) {
    return static_cast<unsigned __int128>(count) * bytes + offset <= g.ring_bytes;
  };
  FUZZ_EXPECT(inside(g.requests_offset, g.request_slots, sizeof(wire::SelectRequest)));
  FUZZ_EXPECT(inside(g.queries_offset, g.request_slots, uint64_t{4} * g.query_floats));
  FUZZ_EXPECT(inside(g.responses_offset, g.response_slots, sizeof(wire::ResponseSlot)));
  FUZZ_EXPECT(inside(g.payloads_offset, g.response_slots, g.payload_bytes));
}

// One store and one connection for all inputs, as a worker that goes on trying.
class Served {
 public:
  Served() {
    auto connection = Connection::Make(1, wire::MakeRingGeometry(kQueryFloats, 4096));
    TS_CHECK(connection.ok());
    connection_ = *std::move(connection);
    auto ring = Mapping::Map(connection_->ring_fd(),
                             static_cast<int64_t>(connection_->geometry().ring_bytes));
    TS_CHECK(ring.ok());
    ring_.emplace(*std::move(ring));
  }

  void Try(wire::SelectRequest request, std::vector<float> q, bool repaired) {
    if (repaired) {  // past the first checks
      request.version = wire::kVersion;
      request.epoch = store_.epoch();
      request.ticket = ticket_;
      request.deadline_ns = INT64_MAX;
      request.check = wire::RequestCheck(request);
    }
    const TakenRequest taken{.request = request, .q = std::move(q), .ticket = ticket_};
    ServeRequest(taken, store_, *connection_, scratch_, counters_);
    CheckAnswer();
    ++ticket_;
  }

 private:
  void CheckAnswer() {
    const wire::RingGeometry& g = connection_->geometry();
    const auto* slots =
        reinterpret_cast<const wire::ResponseSlot*>(ring_->data() + g.responses_offset);
    const wire::ResponseSlot& slot = slots[ticket_ % g.response_slots];
    FUZZ_EXPECT(slot.done.load() == static_cast<uint32_t>(ticket_ + 1));
    FUZZ_EXPECT(slot.response.check == wire::ResponseCheck(slot.response));
    FUZZ_EXPECT(slot.response.ticket == ticket_);
    FUZZ_EXPECT((slot.response.status == 0) == (slot.response.refusal == wire::Refusal::kNone));
    FUZZ_EXPECT(std::memchr(slot.message, 0, sizeof(slot.message)) != nullptr);
    const uint64_t bytes =
        wire::PayloadBytes(slot.response.kv_heads, slot.response.count, slot.response.head_dim);
    FUZZ_EXPECT(bytes <= g.payload_bytes);
  }

  FakeStore store_;
  std::shared_ptr<Connection> connection_;
  std::optional<Mapping> ring_;
  ServeScratch scratch_;
  RequestCounters counters_;
  uint64_t ticket_ = 0;
};

template <typename Message>
std::string BytesOf(const Message& message) {
  return std::string(reinterpret_cast<const char*>(&message), sizeof(message));
}

}  // namespace

// A kind byte, a geometry or a request, then queries.
std::vector<std::string> Seeds() {
  wire::SelectRequest request{};
  request.q_floats = kQueryFloats;
  request.sequence = request.generation = 1;
  request.channels = 8;
  request.top_k = 4;
  std::string queries(kQueryFloats * sizeof(float), '\0');
  wire::SelectRequest large = request;
  large.top_k = 512;
  return {"g" + BytesOf(wire::MakeRingGeometry(576, 4096)), "r" + BytesOf(request) + queries,
          "R" + BytesOf(request) + queries, "R" + BytesOf(large) + queries};
}

}  // namespace tailor

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tailor;
  static Served served;
  if (size < 1 + sizeof(wire::SelectRequest)) return 0;
  if (data[0] == 'g') {
    wire::RingGeometry geometry;
    std::memcpy(&geometry, data + 1, sizeof(geometry));
    CheckGeometry(geometry);
    return 0;
  }
  wire::SelectRequest request;
  std::memcpy(&request, data + 1, sizeof(request));
  // As Connection::Take copies it: the floats the request announces, none beyond the room.
  std::vector<float> q(request.q_floats <= kQueryFloats ? request.q_floats : 0);
  const size_t rest = size - 1 - sizeof(request);
  if (!q.empty()) std::memcpy(q.data(), data + 1 + sizeof(request), std::min(rest, q.size() * 4));
  served.Try(request, std::move(q), data[0] == 'R');
  return 0;
}
