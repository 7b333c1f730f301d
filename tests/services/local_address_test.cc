#include "services/local_address.h"

#include <gtest/gtest.h>

namespace tailor {
namespace {

TEST(LocalAddressTest, LoopbackAndUnixSocketsStayOnThisMachine) {
  for (const char* address :
       {"unix:/run/a.sock", "127.0.0.1:1", "127.1.2.3:80", "localhost:80", "[::1]:8001"}) {
    EXPECT_TRUE(IsLocalAddress(address)) << address;
  }
}

TEST(LocalAddressTest, NothingElseDoes) {
  for (const char* address : {"0.0.0.0:80", "[::]:80", "10.0.0.1:80", "example.org:80",
                              "127.example.org:80", "127.0.0.1.example.org:80", "localhost.evil:80",
                              "128.0.0.1:80", "::1:80", ":80", "", "*:80"}) {
    EXPECT_FALSE(IsLocalAddress(address)) << address;
  }
}

}  // namespace
}  // namespace tailor
