#include "common/shm/fd_passing.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/shm/futex.h"
#include "common/status.h"

namespace tailor {
namespace {

struct alignas(cmsghdr) ControlBuffer {
  char bytes[CMSG_SPACE(sizeof(int) * kMaxPassedFds)] = {};
};

absl::Status WaitReadable(int socket, int64_t deadline_ns) {
  for (;;) {
    const int64_t left_ns = deadline_ns - MonotonicNowNs();
    pollfd wait{.fd = socket, .events = POLLIN, .revents = 0};
    const int left_ms = static_cast<int>(std::clamp<int64_t>(left_ns / 1'000'000 + 1, 0, 60'000));
    const int ready = ::poll(&wait, 1, left_ns <= 0 ? 0 : left_ms);
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) {
      return absl::UnavailableError(absl::StrCat("poll: ", std::strerror(errno)));
    }
    if (MonotonicNowNs() >= deadline_ns) {
      return absl::DeadlineExceededError("no message from the peer before the deadline");
    }
  }
}

std::vector<UniqueFd> TakeFds(msghdr& message) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* c = CMSG_FIRSTHDR(&message); c != nullptr; c = CMSG_NXTHDR(&message, c)) {
    if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
      fds.emplace_back(fd);
    }
  }
  return fds;
}

}  // namespace

absl::Status SendFds(int socket, std::span<const std::byte> bytes, std::span<const int> fds) {
  TS_CHECK(fds.size() <= kMaxPassedFds && !bytes.empty());
  iovec part{.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()};
  ControlBuffer control;
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (!fds.empty()) {
    message.msg_control = control.bytes;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  }
  ssize_t sent;
  do {
    sent = ::sendmsg(socket, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent != static_cast<ssize_t>(bytes.size())) {
    return absl::UnavailableError(absl::StrCat("send to the peer: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::StatusOr<ReceivedMessage> ReceiveFds(int socket, std::span<std::byte> buffer,
                                           int64_t deadline_ns) {
  TS_RETURN_IF_ERROR(WaitReadable(socket, deadline_ns));
  iovec part{.iov_base = buffer.data(), .iov_len = buffer.size()};
  ControlBuffer control;
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof(control.bytes);
  const ssize_t got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (got <= 0) {
    return absl::UnavailableError(
        absl::StrCat("the peer hung up", got < 0 ? ": " : "", got < 0 ? std::strerror(errno) : ""));
  }
  ReceivedMessage received{.bytes = static_cast<size_t>(got), .fds = TakeFds(message)};
  if ((message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return absl::InvalidArgumentError(absl::StrCat("message from the peer passes ", buffer.size(),
                                                   " bytes or ", kMaxPassedFds, " descriptors"));
  }
  return received;
}

}  // namespace tailor
