#include "common/shm/unix_socket.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>
#include <string>

namespace tailor {
namespace {

class UnixSocket : public ::testing::Test {
 protected:
  UnixSocket() : path_(::testing::TempDir() + "/unix_socket_" + std::to_string(::getpid())) {}
  ~UnixSocket() override { ::unlink(path_.c_str()); }
  std::string path_;
};

TEST_F(UnixSocket, OnlyTheOwnerMayConnect) {
  const auto listener = ListenUnix(path_, 4);
  ASSERT_TRUE(listener.ok()) << listener.status();
  struct stat info;
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
}

TEST_F(UnixSocket, TheKernelNamesThePeerAndReportsItsHangUp) {
  const auto listener = ListenUnix(path_, 4);
  ASSERT_TRUE(listener.ok());
  auto client = ConnectUnix(path_);
  ASSERT_TRUE(client.ok()) << client.status();
  const auto server = AcceptUnix(listener->get());
  ASSERT_TRUE(server.ok() && *server);
  EXPECT_EQ(PeerOf(server->get())->uid, ::getuid());
  EXPECT_EQ(PeerOf(server->get())->pid, ::getpid());
  EXPECT_FALSE(HasHungUp(server->get()));
  client->Reset();
  EXPECT_TRUE(HasHungUp(server->get()));
}

TEST_F(UnixSocket, ASocketLeftByADeadProcessIsReplaced) {
  { const auto dead = ListenUnix(path_, 4); }
  ASSERT_EQ(::access(path_.c_str(), F_OK), 0) << "the stale file should be there";
  EXPECT_TRUE(ListenUnix(path_, 4).ok());
}

TEST_F(UnixSocket, ASocketInUseIsLeftAlone) {
  const auto first = ListenUnix(path_, 4);
  EXPECT_EQ(ListenUnix(path_, 4).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_TRUE(ConnectUnix(path_).ok());
}

TEST_F(UnixSocket, AFileThatIsNoSocketIsNotRemoved) {
  std::ofstream(path_) << "precious";
  EXPECT_EQ(ListenUnix(path_, 4).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(::access(path_.c_str(), F_OK), 0);
}

TEST_F(UnixSocket, APathTooLongIsAClearError) {
  const auto listener = ListenUnix("/tmp/" + std::string(200, 'x'), 4);
  EXPECT_EQ(listener.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(listener.status().message()).find("205 bytes, limit 1 to 107"),
            std::string::npos)
      << listener.status();
}

TEST_F(UnixSocket, NobodyListeningIsUnavailable) {
  EXPECT_EQ(ConnectUnix(path_).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace tailor
