#include "kvstore/transport/shm_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
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
constexpr int kBacklog = 16;
constexpr size_t kMostGreetings = 64;

wire::HelloReply BlankReply() {
  wire::HelloReply reply{};
  reply.magic = wire::kMagic;
  reply.version = wire::kVersion;
  return reply;
}

std::span<const std::byte> BytesOf(const wire::HelloReply& reply) {
  return std::as_bytes(std::span(&reply, 1));
}

}  // namespace

absl::Status ShmServerOptions::Validate() const {
  const auto outside = [](const char* what, int64_t value, int64_t low, int64_t high) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " is ", value, ", limit ", low, " to ", high));
  };
  if (selection_threads < 1 || selection_threads > 64) {
    return outside("selection_threads", selection_threads, 1, 64);
  }
  if (spin_us < 0 || spin_us > 1'000'000) return outside("spin_us", spin_us, 0, 1'000'000);
  if (max_connections < 1 || max_connections > RingWaiter::kMaxRings) {
    return outside("max_connections", max_connections, 1, RingWaiter::kMaxRings);
  }
  if (max_query_floats < 1 || max_query_floats > UINT16_MAX) {
    return outside("max_query_floats", max_query_floats, 1, UINT16_MAX);
  }
  constexpr int64_t kPayloadLimit = int64_t{1} << 32;
  if (payload_bytes < 4096 || payload_bytes > kPayloadLimit) {
    return outside("payload_bytes", payload_bytes, 4096, kPayloadLimit);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ShmServer>> ShmServer::Start(ServedStore* store,
                                                            const ShmServerOptions& options) {
  TS_RETURN_IF_ERROR(options.Validate());
  TS_ASSIGN_OR_RETURN(UniqueFd listener, ListenUnix(options.socket_path, kBacklog));
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake) return absl::UnavailableError("no eventfd left");
  return std::unique_ptr<ShmServer>(
      new ShmServer(store, options, std::move(listener), std::move(wake)));
}

ShmServer::ShmServer(ServedStore* store, const ShmServerOptions& options, UniqueFd listener,
                     UniqueFd wake)
    : store_(store),
      options_(options),
      listener_(std::move(listener)),
      wake_(std::move(wake)),
      selection_threads_(store, options.selection_threads, options.spin_us, [this] { Wake(); }),
      listener_thread_([this] { ListenerLoop(); }) {}

ShmServer::~ShmServer() {
  stopping_.store(true, std::memory_order_release);
  Wake();
  listener_thread_.join();
}

ShmServerStats ShmServer::stats() const {
  const RequestCounters& requests = selection_threads_.counters();
  return {.connections = open_connections_.load(),
          .refused_hellos = refused_hellos_.load(),
          .broken_connections = broken_connections_.load(),
          .requests = requests.requests.load(),
          .malformed_requests = requests.malformed.load(),
          .late_requests = requests.late.load(),
          .stale_requests = requests.stale_epoch.load()};
}

void ShmServer::Wake() {
  const uint64_t one = 1;
  // EAGAIN: the counter is full, so the thread is being woken anyway.
  if (::write(wake_.get(), &one, sizeof(one)) < 0 && errno != EAGAIN) {
    spdlog::error("store transport: wake: {}", std::strerror(errno));
  }
}

void ShmServer::ListenerLoop() {
  while (!stopping_.load(std::memory_order_acquire)) {
    Poll();
    AcceptAll();
    HearGreetings();
    EndBrokenAndHungUp();
    for (const auto& connection : connections_) connection->Beat();
  }
  ::unlink(options_.socket_path.c_str());
  selection_threads_.SetConnections({});
  for (const auto& connection : connections_) End(*connection);
  connections_.clear();
}

// Waits for news of any socket, at most until the next heartbeat.
void ShmServer::Poll() {
  std::vector<pollfd> waits;
  waits.push_back({.fd = wake_.get(), .events = POLLIN, .revents = 0});
  waits.push_back({.fd = listener_.get(), .events = POLLIN, .revents = 0});
  for (const Greeting& greeting : greetings_) {
    waits.push_back({.fd = greeting.socket.get(), .events = POLLIN | POLLRDHUP, .revents = 0});
  }
  for (const auto& connection : connections_) {
    waits.push_back({.fd = connection->socket(), .events = POLLIN | POLLRDHUP, .revents = 0});
  }
  ::poll(waits.data(), waits.size(), wire::kHeartbeatMs);
  uint64_t wakes;
  if (waits[0].revents != 0 && ::read(wake_.get(), &wakes, sizeof(wakes)) < 0) {
    spdlog::debug("store transport: spurious wake");
  }
}

void ShmServer::AcceptAll() {
  for (;;) {
    absl::StatusOr<UniqueFd> socket = AcceptUnix(listener_.get());
    if (!socket.ok()) {
      spdlog::warn("store transport: {}", socket.status().ToString());
      return;
    }
    if (!*socket) return;
    // Even one that will be refused may say hello first: closing a socket with an unread message
    // resets it, and the refusal would be lost. What is too much to be polite to is just closed.
    if (greetings_.size() >= kMostGreetings) continue;
    const absl::Status admission = CheckPeer(socket->get());
    greetings_.push_back(
        {std::move(*socket), admission, MonotonicNowNs() + options_.hello_timeout_ms * kNsPerMs});
  }
}

absl::Status ShmServer::CheckPeer(int socket) const {
  TS_ASSIGN_OR_RETURN(const PeerIdentity peer, PeerOf(socket));
  if (peer.uid == ::getuid() || peer.uid == options_.allowed_uid) return absl::OkStatus();
  return absl::PermissionDeniedError("this user may not use the KV store");
}

void ShmServer::HearGreetings() {
  std::vector<Greeting> silent;
  for (Greeting& greeting : std::exchange(greetings_, {})) {
    pollfd wait{.fd = greeting.socket.get(), .events = POLLIN, .revents = 0};
    if (::poll(&wait, 1, 0) > 0) {
      Greet(std::move(greeting));
    } else if (MonotonicNowNs() < greeting.deadline_ns) {
      silent.push_back(std::move(greeting));
    } else {
      Refuse(greeting.socket.get(), absl::DeadlineExceededError("no hello in time"));
    }
  }
  greetings_ = std::move(silent);
}

void ShmServer::Greet(Greeting greeting) {
  const int socket = greeting.socket.get();
  wire::Hello hello{};
  // Descriptors that come along are closed with the message: a hello brings none.
  const absl::StatusOr<ReceivedMessage> message =
      ReceiveFds(socket, std::as_writable_bytes(std::span(&hello, 1)), MonotonicNowNs());
  if (!message.ok()) return Refuse(socket, message.status());
  if (!greeting.admission.ok()) return Refuse(socket, greeting.admission);
  if (message->bytes != sizeof(hello)) {
    return Refuse(socket, absl::InvalidArgumentError(absl::StrCat("hello has ", message->bytes,
                                                                  " bytes, not ", sizeof(hello))));
  }
  if (const absl::Status sound = CheckHello(hello); !sound.ok()) return Refuse(socket, sound);
  if (const absl::Status admitted = Admit(greeting.socket); !admitted.ok()) {
    Refuse(socket, admitted);
  }
}

absl::Status ShmServer::Admit(UniqueFd& socket) {
  if (static_cast<int>(connections_.size()) >= options_.max_connections) {
    return absl::ResourceExhaustedError(
        absl::StrCat("KV store has ", options_.max_connections, " connections, all taken"));
  }
  const wire::RingGeometry geometry = wire::MakeRingGeometry(
      options_.max_query_floats, static_cast<uint64_t>(options_.payload_bytes));
  TS_ASSIGN_OR_RETURN(std::shared_ptr<Connection> connection,
                      Connection::Make(store_->AcquireLease(), geometry));
  const std::array<int, 2> fds = {store_->arena().fd, connection->ring_fd()};
  const wire::HelloReply reply = ReplyFor(*connection);
  const absl::Status sent = SendFds(socket.get(), BytesOf(reply), fds);
  if (!sent.ok()) {
    store_->DropLease(connection->lease());
    return sent;
  }
  connection->Own(std::move(socket));
  connections_.push_back(std::move(connection));
  selection_threads_.SetConnections(connections_);
  open_connections_.store(static_cast<int64_t>(connections_.size()));
  return absl::OkStatus();
}

absl::Status ShmServer::CheckHello(const wire::Hello& hello) const {
  if (hello.magic != wire::kMagic) return absl::InvalidArgumentError("hello has a wrong magic");
  if (hello.version != wire::kVersion || hello.layout_version != kLayoutVersion ||
      hello.page_tokens != kPageTokens) {
    return absl::FailedPreconditionError(
        absl::StrCat("worker speaks wire ", hello.version, ", layout ", hello.layout_version,
                     ", pages of ", hello.page_tokens, " tokens; the store ", wire::kVersion, ", ",
                     kLayoutVersion, ", ", kPageTokens));
  }
  if (hello.expected_epoch != 0 && hello.expected_epoch != store_->epoch()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "worker expects store epoch ", hello.expected_epoch, ", this is ", store_->epoch()));
  }
  return absl::OkStatus();
}

wire::HelloReply ShmServer::ReplyFor(const Connection& connection) const {
  wire::HelloReply reply = BlankReply();
  reply.epoch = store_->epoch();
  reply.lease = connection.lease();
  const ServedArena arena = store_->arena();
  reply.arena_bytes = static_cast<uint64_t>(arena.bytes);
  reply.slot_table_offset = arena.slot_table_offset;
  reply.slot_count = arena.slot_count;
  reply.ring = connection.geometry();
  return reply;
}

void ShmServer::Refuse(int socket, const absl::Status& why) {
  refused_hellos_.fetch_add(1);
  // One that hangs up without a word only looked whether somebody listens.
  const auto level =
      why.code() == absl::StatusCode::kUnavailable ? spdlog::level::debug : spdlog::level::warn;
  spdlog::log(level, "store transport: refused a connection: {}", why.ToString());
  wire::HelloReply reply = BlankReply();
  reply.status = static_cast<uint32_t>(why.code());
  const std::string text(why.message());
  std::memcpy(reply.message, text.data(), std::min(text.size(), sizeof(reply.message) - 1));
  // The peer may be gone, which is as good as refused.
  SendFds(socket, BytesOf(reply), {}).IgnoreError();
}

void ShmServer::End(const Connection& connection) {
  if (connection.broken()) {
    broken_connections_.fetch_add(1);
    spdlog::warn("store transport: lease {} broke the protocol", connection.lease());
  }
  connection.HangUp();  // a selection thread may hold the object for a while yet
  store_->DropLease(connection.lease());
}

void ShmServer::EndBrokenAndHungUp() {
  ConnectionList kept, ended;
  for (const auto& connection : connections_) {
    // A worker has nothing to say after its hello: readable means hung up, or out of its mind.
    pollfd wait{.fd = connection->socket(), .events = POLLIN | POLLRDHUP, .revents = 0};
    const bool over = connection->broken() || ::poll(&wait, 1, 0) > 0;
    (over ? ended : kept).push_back(connection);
  }
  if (ended.empty()) return;
  connections_ = std::move(kept);
  selection_threads_.SetConnections(connections_);
  for (const auto& connection : ended) End(*connection);
  open_connections_.store(static_cast<int64_t>(connections_.size()));
}

}  // namespace tailor
