// Unix sockets of type SOCK_SEQPACKET: messages keep their borders, and a hang-up says that the
// other process has closed its end or is gone.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "common/unique_handle.h"

namespace tailor {

// Listens on `path` (mode 0600, close-on-exec, non-blocking). A socket file that nobody listens on
// is removed first; one that answers is left alone. Errors: InvalidArgument (path too long for a
// unix socket, or something else than a socket lies there), AlreadyExists (another process
// listens).
absl::StatusOr<UniqueFd> ListenUnix(const std::string& path, int backlog);

// Connects (close-on-exec, blocking). Errors: Unavailable, naming the path.
absl::StatusOr<UniqueFd> ConnectUnix(const std::string& path);

// Takes the next waiting connection (close-on-exec, non-blocking); an empty handle when none waits.
absl::StatusOr<UniqueFd> AcceptUnix(int listener);

struct PeerIdentity {
  pid_t pid = 0;  // for the log; it may have been reused, so decide nothing by it
  uid_t uid = 0;
};
// Who connected, as the kernel recorded it then (SO_PEERCRED): the peer cannot choose it.
absl::StatusOr<PeerIdentity> PeerOf(int socket);

// Whether the other end has hung up. Never blocks.
bool HasHungUp(int socket);

}  // namespace tailor
