#include "common/shm/fd_passing.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "common/shm/futex.h"
#include "common/shm/mapping.h"

namespace tailor {
namespace {

int64_t InMs(int64_t ms) { return MonotonicNowNs() + ms * 1'000'000; }

class FdPassing : public ::testing::Test {
 protected:
  void SetUp() override {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    left_ = UniqueFd(ends[0]);
    right_ = UniqueFd(ends[1]);
  }
  std::span<const std::byte> Hello() const { return std::as_bytes(std::span(text_)); }

  std::array<char, 5> text_ = {'h', 'e', 'l', 'l', 'o'};
  std::array<std::byte, 64> buffer_;
  UniqueFd left_, right_;
};

TEST_F(FdPassing, MemoryWrittenByOneProcessIsReadByTheOther) {
  const pid_t child = ::fork();
  if (child == 0) {
    auto memory = CreateSealedMemfd("passed", 4096);
    auto mapping = Mapping::Map(memory->get(), 4096);
    std::memcpy(mapping->data(), "written by the child", 21);
    const int fd = memory->get();
    ::_exit(SendFds(left_.get(), Hello(), {&fd, 1}).ok() ? 0 : 1);
  }
  const auto message = ReceiveFds(right_.get(), buffer_, InMs(20'000));
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->bytes, text_.size());
  ASSERT_EQ(message->fds.size(), 1u);
  EXPECT_NE(::fcntl(message->fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
  ASSERT_EQ(*SealedBytes(message->fds[0].get()), 4096);
  const auto mapping = Mapping::Map(message->fds[0].get(), 4096);
  EXPECT_STREQ(reinterpret_cast<const char*>(mapping->data()), "written by the child");
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

TEST_F(FdPassing, MoreDescriptorsThanTheLimitAreRefusedAndClosed) {
  std::array<int, kMaxPassedFds + 3> fds;
  fds.fill(left_.get());
  // By hand: SendFds itself refuses to send so many.
  char control[CMSG_SPACE(sizeof(fds))] = {};
  iovec part{.iov_base = text_.data(), .iov_len = text_.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  cmsghdr* const header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof(fds));
  std::memcpy(CMSG_DATA(header), fds.data(), sizeof(fds));
  ASSERT_GT(::sendmsg(left_.get(), &message, 0), 0);

  const int lowest_free_before = ::dup(left_.get());
  ::close(lowest_free_before);
  const auto received = ReceiveFds(right_.get(), buffer_, InMs(20'000));
  EXPECT_EQ(received.status().code(), absl::StatusCode::kInvalidArgument);
  const int lowest_free_after = ::dup(left_.get());
  ::close(lowest_free_after);
  EXPECT_EQ(lowest_free_after, lowest_free_before) << "a received descriptor leaked";
}

TEST_F(FdPassing, AMessageLongerThanTheBufferIsRefused) {
  ASSERT_TRUE(SendFds(left_.get(), Hello(), {}).ok());
  const auto received = ReceiveFds(right_.get(), std::span(buffer_).first(3), InMs(20'000));
  EXPECT_EQ(received.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(FdPassing, AHungUpPeerIsUnavailableAndASilentOneRunsIntoTheDeadline) {
  const int64_t deadline_ns = InMs(20);
  EXPECT_EQ(ReceiveFds(right_.get(), buffer_, deadline_ns).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  EXPECT_GE(MonotonicNowNs(), deadline_ns);
  left_.Reset();
  EXPECT_EQ(ReceiveFds(right_.get(), buffer_, InMs(20'000)).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(SendFds(right_.get(), Hello(), {}).code(), absl::StatusCode::kUnavailable);
}

TEST_F(FdPassing, UnsealedMemoryIsNotTrusted) {
  const UniqueFd plain(::memfd_create("plain", MFD_CLOEXEC));
  ASSERT_EQ(::ftruncate(plain.get(), 4096), 0);
  EXPECT_EQ(SealedBytes(plain.get()).status().code(), absl::StatusCode::kFailedPrecondition);
  const auto sealed = CreateSealedMemfd("sealed", 4096);
  EXPECT_NE(::ftruncate(sealed->get(), 0), 0) << "sealed memory was truncated";
}

}  // namespace
}  // namespace tailor
