// One message with file descriptors over a unix socket (SCM_RIGHTS).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "common/unique_handle.h"

namespace tailor {

inline constexpr int kMaxPassedFds = 4;

// Sends `bytes` as one message together with up to kMaxPassedFds descriptors (maybe none). Never
// blocks longer than the socket's buffer is full. Errors: Unavailable (the peer is gone or slow).
absl::Status SendFds(int socket, std::span<const std::byte> bytes, std::span<const int> fds);

struct ReceivedMessage {
  size_t bytes = 0;           // that were written to the buffer
  std::vector<UniqueFd> fds;  // close-on-exec
};
// Waits for one message until deadline_ns (MonotonicNowNs). Errors: DeadlineExceeded, Unavailable
// (the peer hung up), InvalidArgument (the message is longer than `buffer` or brings more
// descriptors than kMaxPassedFds: all of them are closed then).
absl::StatusOr<ReceivedMessage> ReceiveFds(int socket, std::span<std::byte> buffer,
                                           int64_t deadline_ns);

}  // namespace tailor
