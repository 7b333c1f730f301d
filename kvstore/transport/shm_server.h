// The store's door for workers of its host: a unix socket that hands out the arena and a ring, and
// threads that answer selections from all rings. kvstore/wire/format.md is the protocol.
//
// One listener thread owns the sockets: it greets, beats the hearts, and ends a connection when its
// socket hangs up or its worker breaks the protocol; then the lease is dropped. A worker that is
// merely stopped keeps its lease however long it is silent: it still maps the arena, so its open
// pages must not be given to anybody else before the kernel has torn that mapping down.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "common/unique_handle.h"
#include "kvstore/transport/connection.h"
#include "kvstore/transport/selection_threads.h"
#include "kvstore/transport/served_store.h"

namespace tailor {

struct ShmServerOptions {
  std::string socket_path;
  // Besides our own uid, this one may connect too.
  std::optional<uid_t> allowed_uid;
  // Each serves one selection at a time. More than cores - 1 only makes workers wait for a slice.
  int selection_threads = 1;
  // How long an idle selection thread looks before it sleeps. Longer: no wake-up (40-70 us) for
  // requests that come soon after each other. Shorter: the core is free for the worker.
  int64_t spin_us = 20;
  int max_connections = 32;           // further ones are refused; at most RingWaiter::kMaxRings
  int64_t hello_timeout_ms = 2000;    // for a connected client to say hello
  uint32_t max_query_floats = 32768;  // of one request: q_heads * head_dim; at most 65535
  // Room of one answer. Memory is taken as it is used, so this is a limit rather than a cost.
  int64_t payload_bytes = int64_t{32} << 20;

  absl::Status Validate() const;
};

// Counted since the start.
struct ShmServerStats {
  int64_t connections = 0;         // open now, past their hello
  int64_t refused_hellos = 0;      // uid, version, epoch or time
  int64_t broken_connections = 0;  // ended because the worker broke the protocol
  int64_t requests = 0;
  int64_t malformed_requests = 0;
  int64_t late_requests = 0;   // past their deadline when taken up
  int64_t stale_requests = 0;  // of another epoch
};

class ShmServer {
 public:
  // Listens and starts the threads. `store` outlives the server.
  // Errors: InvalidArgument (options), AlreadyExists (another process listens there), Unavailable.
  static absl::StatusOr<std::unique_ptr<ShmServer>> Start(ServedStore* store,
                                                          const ShmServerOptions& options);
  ~ShmServer();  // hangs up on everybody, drops their leases, joins the threads

  ShmServerStats stats() const;

 private:
  struct Greeting {  // connected, has not said hello
    UniqueFd socket;
    absl::Status admission;  // whether this user may connect at all
    int64_t deadline_ns;
  };

  ShmServer(ServedStore* store, const ShmServerOptions& options, UniqueFd listener, UniqueFd wake);

  void ListenerLoop();
  void Poll();
  void Wake();  // any thread: makes Poll return
  void AcceptAll();
  void HearGreetings();
  void Greet(Greeting greeting);
  absl::Status CheckPeer(int socket) const;
  absl::Status CheckHello(const wire::Hello& hello) const;
  // Gives a sound hello a lease and a ring. Takes the socket when it succeeds.
  absl::Status Admit(UniqueFd& socket);
  wire::HelloReply ReplyFor(const Connection& connection) const;
  void Refuse(int socket, const absl::Status& why);
  void EndBrokenAndHungUp();
  void End(const Connection& connection);

  ServedStore* const store_;
  const ShmServerOptions options_;
  UniqueFd listener_;    // listener thread
  const UniqueFd wake_;  // an eventfd

  std::vector<Greeting> greetings_;  // listener thread
  ConnectionList connections_;       // listener thread
  std::atomic<int64_t> open_connections_{0}, refused_hellos_{0}, broken_connections_{0};
  std::atomic<bool> stopping_{false};
  SelectionThreads selection_threads_;
  std::thread listener_thread_;
};

}  // namespace tailor
