// Memory of a backend: budget, accounting, ownership; and what the CPU backend refuses.
#include "worker/ops/backend.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "common/status.h"

namespace tailor {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<Backend> MakeBackend(int64_t limit_bytes) {
  auto backend = MakeCpuBackend({.threads = 1, .memory_limit_bytes = limit_bytes});
  TS_CHECK(backend.ok());
  return *std::move(backend);
}

TEST(BackendTest, BeyondTheBudgetIsRefusedWithAskedFreeAndLimit) {
  auto ops = MakeBackend(1000);
  const auto held = ops->Allocate(600);
  ASSERT_TRUE(held.ok());
  const auto refused = ops->Allocate(401);
  EXPECT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("401 bytes asked, 400 free of 1000"));
  EXPECT_EQ(ops->allocated_bytes(), 600) << "a refusal takes nothing";
  EXPECT_TRUE(ops->Allocate(400).ok());
}

TEST(BackendTest, AHugeRequestIsRefusedWithoutOverflow) {
  auto ops = MakeBackend(1000);
  const auto held = ops->Allocate(999);
  EXPECT_EQ(ops->Allocate(std::numeric_limits<int64_t>::max()).status().code(),
            absl::StatusCode::kResourceExhausted);
}

TEST(BackendTest, MemoryIsZeroedAndAligned) {
  auto ops = MakeBackend(0);
  for (const int64_t bytes : {1, 63, 64, 4097}) {
    const auto buffer = ops->Allocate(bytes);
    ASSERT_TRUE(buffer.ok());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    std::vector<std::byte> host(bytes, std::byte{1});
    ops->Download(buffer->data(), host);
    EXPECT_EQ(host, std::vector<std::byte>(bytes)) << bytes;
  }
}

// Against a sum kept beside it; the seed is fixed, so a failure repeats.
TEST(BackendTest, AccountingFollowsEveryAllocateMoveAndFreeAndReturnsToZero) {
  auto ops = MakeBackend(0);
  std::mt19937_64 random(11);
  {
    std::vector<DeviceBuffer> buffers(8);
    for (int step = 0; step < 2000; ++step) {
      DeviceBuffer& one = buffers[random() % 8];
      DeviceBuffer& other = buffers[random() % 8];
      if (random() % 2 == 0) {
        auto fresh = ops->Allocate(static_cast<int64_t>(random() % 300));
        ASSERT_TRUE(fresh.ok());
        one = *std::move(fresh);
      } else {
        one = std::move(other);  // sometimes of itself
      }
      int64_t want = 0;
      for (const DeviceBuffer& buffer : buffers) want += buffer.bytes();
      ASSERT_EQ(ops->allocated_bytes(), want) << "step " << step;
    }
  }
  EXPECT_EQ(ops->allocated_bytes(), 0);
}

TEST(BackendTest, AMovedFromBufferIsEmptyAndItsMemoryLivesOn) {
  auto ops = MakeBackend(0);
  DeviceBuffer first = *ops->Allocate(4);
  const int32_t value = 42;
  ops->Upload(std::as_bytes(std::span(&value, 1)), first.data());
  DeviceBuffer second = std::move(first);
  EXPECT_EQ(first.data(), nullptr);
  EXPECT_EQ(first.bytes(), 0);
  EXPECT_EQ(*second.As<int32_t>(), 42);
  EXPECT_EQ(ops->allocated_bytes(), 4);
}

TEST(BackendDeathTest, AViewLargerThanItsBufferAborts) {
  auto ops = MakeBackend(0);
  const DeviceBuffer buffer = *ops->Allocate(24);
  EXPECT_EQ(buffer.Matrix<float>(2, 3).rows, 2);
  EXPECT_DEATH(buffer.Matrix<float>(1, 7), "check failed");
}

TEST(BackendTest, ARopeTableBeyondTheBudgetIsRefused) {
  LlamaHyperparameters model;
  model.head_dim = 64;
  auto ops = MakeBackend(100 * 64 * 4);
  EXPECT_EQ(ops->MakeRopeTable(model, 101).status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(ops->MakeRopeTable(model, 100).ok());
}

TEST(BackendTest, AThreadCountOutOfRangeIsRefusedWithItsLimit) {
  for (const int threads : {-1, 1025}) {
    const auto backend = MakeCpuBackend({.threads = threads});
    EXPECT_EQ(backend.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(backend.status().message()),
                HasSubstr("threads is " + std::to_string(threads) + ", limit 0..1024"));
  }
}

TEST(BackendTest, ACopyMovesItsPiecesAndNothingBeside) {
  auto ops = MakeBackend(0);
  const DeviceBuffer device = *ops->Allocate(96);
  std::vector<std::byte> host(96), back(96);
  for (size_t i = 0; i < host.size(); ++i) host[i] = static_cast<std::byte>(i + 1);
  const CopyPiece in[] = {{host.data(), device.data() + 64, 16},
                          {host.data() + 32, device.data(), 32}};
  ops->Copy(in);
  ops->Download(device.data(), back);
  std::vector<std::byte> want(96);
  std::copy_n(host.begin() + 32, 32, want.begin());
  std::copy_n(host.begin(), 16, want.begin() + 64);
  EXPECT_EQ(back, want);
}

TEST(BackendTest, AFarMemorysCopyAsideComesNoSoonerThanItMust) {
  for (const bool synchronizes : {false, true}) {
    auto ops = *MakeCpuBackend({.threads = 1, .far_host_memory = true});
    EXPECT_TRUE(ops->host_memory_is_far());
    const DeviceBuffer device = *ops->Allocate(32);
    std::vector<std::byte> host(32, std::byte{1}), got(32);
    const CopyPiece piece = {host.data(), device.data(), 32};
    ops->CopyAside(std::span(&piece, 1));
    ops->Download(device.data(), got);
    EXPECT_EQ(got, std::vector<std::byte>(32)) << "it may be late, so here it is";
    synchronizes ? ops->Synchronize() : ops->AwaitAside();
    ops->Download(device.data(), got);
    EXPECT_EQ(got, host);
  }
}

TEST(BackendTest, RunOnHostRunsEveryUnitOnceOnAWorkerThatExists) {
  for (const int threads : {1, 2, 3}) {
    auto ops = *MakeCpuBackend({.threads = threads});
    ASSERT_EQ(ops->host_threads(), threads);
    std::vector<int> runs(100), workers(100, -1);  // one element a unit: no two threads share one
    ops->RunOnHost(100, [&](int64_t unit, int worker) {
      ++runs[unit];
      workers[unit] = worker;
    });
    EXPECT_THAT(runs, ::testing::Each(1));
    EXPECT_THAT(workers,
                ::testing::Each(::testing::AllOf(::testing::Ge(0), ::testing::Lt(threads))));
  }
}

}  // namespace
}  // namespace tailor
