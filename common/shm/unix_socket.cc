#include "common/shm/unix_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "common/status.h"

namespace tailor {
namespace {

absl::StatusOr<sockaddr_un> AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) {
    return absl::InvalidArgumentError(absl::StrCat("socket path has ", path.size(),
                                                   " bytes, limit 1 to ",
                                                   sizeof(address.sun_path) - 1, ": ", path));
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

absl::StatusOr<UniqueFd> NewSocket(int extra_flags) {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | extra_flags, 0));
  if (!fd) return absl::ResourceExhaustedError(absl::StrCat("socket: ", std::strerror(errno)));
  return fd;
}

// Clears a socket file that a dead process left; touches nothing else.
absl::Status RemoveIfStale(const std::string& path, const sockaddr_un& address) {
  struct stat info;
  if (::lstat(path.c_str(), &info) != 0) return absl::OkStatus();
  if (!S_ISSOCK(info.st_mode)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " exists and is not a socket"));
  }
  TS_ASSIGN_OR_RETURN(const UniqueFd probe, NewSocket(SOCK_NONBLOCK));
  const int rc =
      ::connect(probe.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  // EAGAIN: a listener with a full backlog. EPROTOTYPE: a listener of another kind.
  if (rc == 0 || errno != ECONNREFUSED) {
    return absl::AlreadyExistsError(absl::StrCat("another process listens on ", path));
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return absl::PermissionDeniedError(
        absl::StrCat("stale socket ", path, ": ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<UniqueFd> ListenUnix(const std::string& path, int backlog) {
  TS_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  TS_RETURN_IF_ERROR(RemoveIfStale(path, address));
  TS_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket(SOCK_NONBLOCK));
  // The mode of the socket file is that of its inode at bind; fchmod on the descriptor sets it
  // before the file has a name, so there is no moment at which others may connect.
  if (::fchmod(fd.get(), S_IRUSR | S_IWUSR) != 0 ||
      ::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    const int error = errno;
    const std::string text = absl::StrCat("cannot listen on ", path, ": ", std::strerror(error));
    return error == EADDRINUSE ? absl::AlreadyExistsError(text) : absl::UnavailableError(text);
  }
  if (::chmod(path.c_str(), S_IRUSR | S_IWUSR) != 0 || ::listen(fd.get(), backlog) != 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", path, ": ", std::strerror(errno)));
  }
  return fd;
}

absl::StatusOr<UniqueFd> ConnectUnix(const std::string& path) {
  TS_ASSIGN_OR_RETURN(const sockaddr_un address, AddressOf(path));
  TS_ASSIGN_OR_RETURN(UniqueFd fd, NewSocket(0));
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    return absl::UnavailableError(
        absl::StrCat("nobody answers on ", path, ": ", std::strerror(errno)));
  }
  return fd;
}

absl::StatusOr<UniqueFd> AcceptUnix(int listener) {
  UniqueFd fd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (fd || errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) return fd;
  return absl::ResourceExhaustedError(absl::StrCat("accept: ", std::strerror(errno)));
}

absl::StatusOr<PeerIdentity> PeerOf(int socket) {
  ucred credentials{};
  socklen_t bytes = sizeof(credentials);
  if (::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat("peer has no credentials: ", std::strerror(errno)));
  }
  return PeerIdentity{.pid = credentials.pid, .uid = credentials.uid};
}

bool HasHungUp(int socket) {
  pollfd wait{.fd = socket, .events = POLLRDHUP, .revents = 0};
  return ::poll(&wait, 1, 0) > 0 && (wait.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

}  // namespace tailor
