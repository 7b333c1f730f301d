#include "kvstore/client/store_link.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <utility>

#include "common/log.h"
#include "common/shm/fd_passing.h"
#include "common/shm/futex.h"
#include "common/shm/unix_socket.h"
#include "common/status.h"

namespace tailor {
namespace {

constexpr int64_t kNsPerMs = 1'000'000;
// A sleeper looks up this often for a store that went away between its look and its sleep.
constexpr int64_t kNapNs = 50 * kNsPerMs;

std::string TextOf(std::span<const char> field) {
  return {field.data(), ::strnlen(field.data(), field.size())};
}

absl::Status CheckReply(const wire::HelloReply& reply, size_t bytes, size_t fds) {
  if (bytes != sizeof(reply) || reply.magic != wire::kMagic) {
    return absl::FailedPreconditionError("whoever listens there is no KV store");
  }
  if (reply.version != wire::kVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "store speaks version ", reply.version, " of the wire, this worker ", wire::kVersion));
  }
  if (reply.status != 0) {
    return absl::Status(static_cast<absl::StatusCode>(reply.status), TextOf(reply.message));
  }
  if (fds != 2) {
    return absl::FailedPreconditionError(
        absl::StrCat("store sent ", fds, " descriptors, 2 expected"));
  }
  return absl::OkStatus();
}

// Maps a received descriptor, which must be as long as the reply says and unable to shrink.
absl::StatusOr<Mapping> MapReceived(int fd, uint64_t bytes) {
  TS_ASSIGN_OR_RETURN(const int64_t sealed_bytes, SealedBytes(fd));
  if (bytes == 0 || static_cast<uint64_t>(sealed_bytes) < bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("store sent memory of ", sealed_bytes, " bytes and calls it ", bytes));
  }
  return Mapping::Map(fd, static_cast<int64_t>(bytes));
}

template <typename T>
std::span<T> Part(const Mapping& ring, uint64_t offset, uint64_t count) {
  return {reinterpret_cast<T*>(ring.data() + offset), count};
}

wire::Hello MakeHello(uint64_t expected_epoch) {
  wire::Hello hello{};
  hello.magic = wire::kMagic;
  hello.version = wire::kVersion;
  hello.layout_version = kLayoutVersion;
  hello.page_tokens = kPageTokens;
  hello.expected_epoch = expected_epoch;
  return hello;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StoreLink>> StoreLink::Connect(const StoreLinkOptions& options) {
  TS_ASSIGN_OR_RETURN(UniqueFd socket, ConnectUnix(options.socket_path));
  const wire::Hello hello = MakeHello(options.expected_epoch);
  TS_RETURN_IF_ERROR(SendFds(socket.get(), std::as_bytes(std::span(&hello, 1)), {}));
  wire::HelloReply reply{};
  TS_ASSIGN_OR_RETURN(const ReceivedMessage message,
                      ReceiveFds(socket.get(), std::as_writable_bytes(std::span(&reply, 1)),
                                 MonotonicNowNs() + options.connect_timeout_ms * kNsPerMs));
  TS_RETURN_IF_ERROR(CheckReply(reply, message.bytes, message.fds.size()));
  if (!wire::IsSound(reply.ring)) {
    return absl::FailedPreconditionError("store describes a ring that contradicts itself");
  }
  TS_ASSIGN_OR_RETURN(Mapping arena, MapReceived(message.fds[0].get(), reply.arena_bytes));
  TS_ASSIGN_OR_RETURN(Mapping ring, MapReceived(message.fds[1].get(), reply.ring.ring_bytes));
  UniqueFd stop(::eventfd(0, EFD_CLOEXEC));
  if (!stop) return absl::ResourceExhaustedError("no eventfd left");
  return std::unique_ptr<StoreLink>(new StoreLink(
      options, reply, std::move(socket), std::move(stop), std::move(arena), std::move(ring)));
}

StoreLink::StoreLink(const StoreLinkOptions& options, const wire::HelloReply& reply,
                     UniqueFd socket, UniqueFd stop, Mapping arena, Mapping ring)
    : options_(options),
      reply_(reply),
      socket_(std::move(socket)),
      stop_(std::move(stop)),
      arena_(std::move(arena)),
      ring_(std::move(ring)),
      header_(reinterpret_cast<wire::RingHeader*>(ring_.data())),
      requests_(&header_->requests, Part<wire::SelectRequest>(ring_, reply_.ring.requests_offset,
                                                              reply_.ring.request_slots)),
      watcher_([this] { WatchLoop(); }) {}

StoreLink::~StoreLink() {
  const uint64_t one = 1;
  if (::write(stop_.get(), &one, sizeof(one)) != sizeof(one)) spdlog::error("eventfd is full");
  watcher_.join();
}

absl::Status StoreLink::Health() const {
  if (gone_.load(std::memory_order_acquire)) {
    return absl::UnavailableError("the KV store has hung up");
  }
  if (silent_.load(std::memory_order_acquire)) {
    return absl::UnavailableError(
        absl::StrCat("the KV store gave no sign of life for ", options_.silence_limit_ms, " ms"));
  }
  return absl::OkStatus();
}

wire::ResponseSlot& StoreLink::SlotOf(uint64_t ticket) const {
  const wire::RingGeometry& ring = reply_.ring;
  return Part<wire::ResponseSlot>(ring_, ring.responses_offset,
                                  ring.response_slots)[ticket % ring.response_slots];
}

absl::StatusOr<uint64_t> StoreLink::Post(wire::SelectRequest request, std::span<const float> q) {
  TS_RETURN_IF_ERROR(Health());
  const wire::RingGeometry& ring = reply_.ring;
  const size_t limit = std::min<size_t>(ring.query_floats, UINT16_MAX);
  if (q.empty() || q.size() > limit) {
    return absl::InvalidArgumentError(
        absl::StrCat("selection has ", q.size(), " query floats, limit 1 to ", limit));
  }
  const uint64_t ticket = next_ticket_;
  if (ticket >= ring.response_slots) {
    const uint64_t earlier = ticket - ring.response_slots;
    if (!Answered(earlier)) {
      return absl::ResourceExhaustedError(absl::StrCat("selection ", earlier,
                                                       " is not answered yet, limit ",
                                                       ring.response_slots, " unanswered"));
    }
  }
  const uint64_t index = requests_.next() & (ring.request_slots - 1);
  std::memcpy(Part<float>(ring_, ring.queries_offset, 0).data() + index * ring.query_floats,
              q.data(), q.size_bytes());
  request.version = wire::kVersion;
  request.epoch = reply_.epoch;
  request.ticket = ticket;
  request.q_floats = static_cast<uint16_t>(q.size());
  request.check = wire::RequestCheck(request);
  if (requests_.TryPush(request) != RingResult::kOk) {
    return absl::InternalError("request ring is full or corrupt");
  }
  ++next_ticket_;
  return ticket;
}

absl::StatusOr<uint64_t> StoreLink::PostInto(uint32_t slot, const wire::SelectRequest& request,
                                             std::span<const float> q) {
  wire::SelectRequest filler = request;
  filler.deadline_ns = 0;  // past: the store refuses it before it looks at anything else
  constexpr float kNoQuery[] = {0.0f};
  while (next_ticket_ % reply_.ring.response_slots != slot) {
    TS_RETURN_IF_ERROR(Post(filler, kNoQuery).status());
  }
  return Post(request, q);
}

bool StoreLink::Answered(uint64_t ticket) const {
  return SlotOf(ticket).done.load(std::memory_order_acquire) == static_cast<uint32_t>(ticket + 1);
}

std::span<std::byte> StoreLink::Payload(uint32_t slot) const {
  const wire::RingGeometry& ring = reply_.ring;
  return Part<std::byte>(ring_, ring.payloads_offset + slot * ring.payload_bytes,
                         ring.payload_bytes);
}

absl::Status StoreLink::AwaitDone(wire::ResponseSlot& slot, uint32_t done, int64_t deadline_ns) {
  const int64_t spin_end_ns = std::min(deadline_ns, MonotonicNowNs() + options_.spin_us * 1000);
  for (int looks = 0;; ++looks) {
    if (slot.done.load(std::memory_order_acquire) == done) return absl::OkStatus();
    if (looks % 16 == 15 && MonotonicNowNs() >= spin_end_ns) break;
    CpuRelax();
  }
  for (;;) {
    // "Sleeping, then done" against the store's "done, then sleeping": one of the two sees the
    // other.
    slot.sleeping.store(1, std::memory_order_seq_cst);
    const uint32_t seen = slot.done.load(std::memory_order_seq_cst);
    const int64_t now_ns = MonotonicNowNs();
    if (seen != done && now_ns < deadline_ns) {
      FutexWait(slot.done, seen, std::min(deadline_ns, now_ns + kNapNs));
    }
    slot.sleeping.store(0, std::memory_order_relaxed);
    if (slot.done.load(std::memory_order_acquire) == done) return absl::OkStatus();
    TS_RETURN_IF_ERROR(Health());
    if (MonotonicNowNs() >= deadline_ns) {
      return absl::DeadlineExceededError("the KV store did not answer a selection in time");
    }
  }
}

absl::StatusOr<RawAnswer> StoreLink::Wait(uint64_t ticket, int64_t deadline_ns) {
  TS_CHECK(ticket < next_ticket_);
  wire::ResponseSlot& slot = SlotOf(ticket);
  TS_RETURN_IF_ERROR(AwaitDone(slot, static_cast<uint32_t>(ticket + 1), deadline_ns));
  return ReadAnswer(ticket);
}

absl::StatusOr<RawAnswer> StoreLink::ReadAnswer(uint64_t ticket) const {
  const wire::ResponseSlot& slot = SlotOf(ticket);
  const wire::RingGeometry& ring = reply_.ring;
  const wire::SelectResponse response = slot.response;
  if (response.check != wire::ResponseCheck(response) || response.ticket != ticket ||
      response.epoch != reply_.epoch) {
    return absl::DataLossError(absl::StrCat("answer to selection ", ticket, " is damaged"));
  }
  if (response.status != 0) {
    return absl::Status(static_cast<absl::StatusCode>(response.status), TextOf(slot.message));
  }
  const uint64_t tokens = uint64_t{response.kv_heads} * response.count;
  if (response.count > kMaxTopK || response.kv_heads > UINT16_MAX ||
      response.head_dim > UINT16_MAX ||
      response.rows_offset != wire::RowsOffset(response.kv_heads, response.count) ||
      wire::PayloadBytes(response.kv_heads, response.count, response.head_dim) >
          ring.payload_bytes) {
    return absl::DataLossError(absl::StrCat("answer to selection ", ticket, " passes its slot"));
  }
  const uint64_t payload = ring.payloads_offset + ticket % ring.response_slots * ring.payload_bytes;
  return RawAnswer{.response = response,
                   .tokens = Part<const int32_t>(ring_, payload, tokens),
                   .rows = Part<const BFloat16>(ring_, payload + response.rows_offset,
                                                tokens * 2 * response.head_dim)};
}

void StoreLink::WakeAll() {
  for (uint64_t slot = 0; slot < reply_.ring.response_slots; ++slot) {
    FutexWakeSome(SlotOf(slot).done, INT_MAX);
  }
}

void StoreLink::WatchLoop() {
  uint32_t last_beat = header_->store_heartbeat.load(std::memory_order_relaxed);
  int64_t last_beat_ns = MonotonicNowNs();
  for (;;) {
    // POLLIN too: the store never sends after the reply, so readable means end of stream.
    pollfd waits[2] = {{.fd = stop_.get(), .events = POLLIN, .revents = 0},
                       {.fd = socket_.get(), .events = POLLIN | POLLRDHUP, .revents = 0}};
    ::poll(waits, gone_ ? 1 : 2, wire::kHeartbeatMs);
    if (waits[0].revents != 0) return;
    if (waits[1].revents != 0) {
      gone_.store(true, std::memory_order_release);
      WakeAll();
    }
    header_->worker_heartbeat.fetch_add(1, std::memory_order_relaxed);
    const uint32_t beat = header_->store_heartbeat.load(std::memory_order_relaxed);
    const int64_t now_ns = MonotonicNowNs();
    if (std::exchange(last_beat, beat) != beat) last_beat_ns = now_ns;
    const bool silent = now_ns - last_beat_ns > options_.silence_limit_ms * kNsPerMs;
    if (silent_.exchange(silent, std::memory_order_release) != silent && silent) WakeAll();
  }
}

}  // namespace tailor
