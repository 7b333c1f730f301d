#include "services/cli/up_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

namespace tailor {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::IsSupersetOf;
using ::testing::Not;

UpPaths Paths(const UpOptions& options) {
  return PlanPaths(options, RunDir::View("/run/t"), "/opt/tailor/bin/tailor");
}

TEST(UpPlanTest, EachProcessWaitsForTheOneItNeeds) {
  const UpOptions options{.model = "/m/a.gguf"};
  const std::vector<ChildSpec> children = PlanChildren(options, Paths(options), 1 << 28);
  ASSERT_EQ(children.size(), 3u);
  EXPECT_EQ(children[0].name, "kvstore");
  EXPECT_THAT(children[0].after, ElementsAre());
  EXPECT_THAT(children[1].after, ElementsAre("kvstore"));
  EXPECT_THAT(children[2].after, ElementsAre("worker"));
}

TEST(UpPlanTest, ProgramsAreFoundBesideThisOne) {
  const UpOptions options{.model = "/m/a.gguf"};
  EXPECT_EQ(PlanChildren(options, Paths(options), 1 << 28)[1].argv[0],
            "/opt/tailor/bin/tailor-worker");
}

TEST(UpPlanTest, StoreAndWorkerMeetAtTheSameSockets) {
  const UpOptions options{.model = "/m/a.gguf"};
  const std::vector<ChildSpec> children = PlanChildren(options, Paths(options), 1 << 28);
  EXPECT_THAT(children[0].argv,
              IsSupersetOf({"--listen", "unix:/run/t/kvstore.sock", "--data-socket",
                            "/run/t/kvstore-data.sock", "--arena-bytes", "268435456"}));
  EXPECT_THAT(children[1].argv,
              IsSupersetOf({"--kvstore", "unix:/run/t/kvstore.sock", "--kvstore-socket",
                            "/run/t/kvstore-data.sock", "--listen", "unix:/run/t/worker.sock"}));
  EXPECT_THAT(children[2].argv,
              IsSupersetOf({"--worker", "unix:/run/t/worker.sock", "--listen", "127.0.0.1:8001"}));
}

TEST(UpPlanTest, OnlyWhatTheUserAskedForIsPassedOn) {
  UpOptions options{.model = "/m/a.gguf"};
  EXPECT_THAT(PlanChildren(options, Paths(options), 1)[1].argv, Not(Contains("--selector")));
  EXPECT_THAT(PlanChildren(options, Paths(options), 1)[1].argv, Not(Contains("--backend")));
  options.selector = "store";
  options.threads = 3;
  options.backend = "cuda";
  options.device_memory_bytes = 1 << 30;
  options.cuda_module = "/m/other.so";
  EXPECT_THAT(PlanChildren(options, Paths(options), 1)[1].argv,
              IsSupersetOf({"--selector", "store", "--threads", "3", "--backend", "cuda",
                            "--device-memory", "1073741824", "--cuda-module", "/m/other.so"}));
}

TEST(UpPlanTest, WorkerAndGatewayAgreeOnTheLongestConversation) {
  const UpOptions options{.model = "/m/a.gguf", .context_tokens = 4096};
  const std::vector<ChildSpec> children = PlanChildren(options, Paths(options), 1);
  for (const int child : {1, 2}) {
    EXPECT_THAT(children[child].argv, IsSupersetOf({"--context-tokens", "4096"})) << child;
  }
}

TEST(UpPlanTest, OnlyAnExplicitWishLetsOthersReachTheGateway) {
  UpOptions options{.model = "/m/a.gguf", .host = "0.0.0.0"};
  EXPECT_THAT(PlanChildren(options, Paths(options), 1)[2].argv, Not(Contains("--insecure-listen")));
  options.insecure_listen = true;
  EXPECT_THAT(PlanChildren(options, Paths(options), 1)[2].argv, Contains("--insecure-listen"));
}

TEST(UpPlanTest, AnIpv6HostStandsInBracketsBeforeThePort) {
  EXPECT_EQ(Paths({.host = "::1", .port = 9}).gateway_address, "[::1]:9");
}

TEST(UpPlanTest, ConversationsOutliveALogOutUnlessARunDirectoryIsNamed) {
  setenv("HOME", "/home/u", 1);
  EXPECT_EQ(Paths({}).data_dir, "/home/u/.tailor/data");
  EXPECT_EQ(Paths({.run_dir = "/run/t"}).data_dir, "/run/t/data");
  EXPECT_EQ(Paths({.log_dir = "/var/log/t"}).log_dir, "/var/log/t");
}

TEST(UpPlanTest, TheArenaTakesAQuarterOfMemoryWithinBounds) {
  constexpr int64_t kGiB = int64_t{1} << 30;
  EXPECT_EQ(DefaultArenaBytes(4 * kGiB), kGiB);
  EXPECT_EQ(DefaultArenaBytes(64 * kGiB), 2 * kGiB);
  EXPECT_EQ(DefaultArenaBytes(0), kGiB / 4);
}

TEST(UpPlanTest, AvailableMemoryIsReadFromTheKernel) {
  EXPECT_GT(AvailableMemoryBytes(), 0);
  EXPECT_LT(AvailableMemoryBytes(), sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE));
}

}  // namespace
}  // namespace tailor
