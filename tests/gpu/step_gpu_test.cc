// Steps on the device: ops between BeginStep and EndStep give the bits they give one by one, in
// lanes, with what needs the device in between, with little memory, and with a doorbell.
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "tests/gpu/gpu_test.h"
#include "tests/worker/ops/weights_in_file.h"
#include "worker/ops/doorbell.h"

namespace tailor {
namespace {

constexpr int32_t kHeads = 4, kKvHeads = 2, kDim = 64;
constexpr int64_t kWidth = kHeads * kDim, kOutputs = 37;
constexpr int kSequences = 6;  // more than a graph has lanes
constexpr int kSteps = 4;      // the emulated device takes three orders of a graph's nodes in turn

// What a batch does: attention and a product of each sequence for itself, then a product of all.
class Batch {
 public:
  explicit Batch(Backend& ops)
      : ops_(ops),
        w_(RandomWeight(DType::kQ4_1, kOutputs, kWidth, 2).Load(ops)),
        q_(*ops.Allocate(kSequences * kWidth * kFloat)),
        attended_(ops, kSequences, kWidth),
        own_(ops, kSequences, kOutputs),
        all_(ops, kSequences, kOutputs) {
    for (int i = 0; i < kSequences; ++i) {
      rows_.push_back(std::make_unique<SegmentedRows>(ops, kKvHeads, kDim, 40 + 90 * i, 64, i + 1));
    }
  }
  void SetQueries(uint64_t seed) {
    const HostMatrix q = RandomMatrix(kSequences, kWidth, seed, 2);
    ops_.Upload(std::as_bytes(std::span(q.values)), q_.data());
  }
  // `between` is called in sequence 3's lane, between its ops.
  void Enqueue(const std::function<void()>& between = [] {}) {
    for (int i = 0; i < kSequences; ++i) {
      ops_.BeginLane(i);
      ops_.Attend({.q = q_.Matrix<float>(kSequences, kWidth).Rows(i, 1),
                   .segments = rows_[i]->device(),
                   .head_dim = kDim,
                   .mask = Mask::kNone,
                   .out = attended_.view().Rows(i, 1),
                   .lse = {}});
      if (i == 3) between();
      // Rows that no vector load may read: a copy in the lane's scratch.
      ops_.MatMul(attended_.view().Rows(i, 1), w_, own_.view().Rows(i, 1));
    }
    ops_.EndLanes();
    ops_.MatMul(attended_.view(), w_, all_.view());
  }
  std::vector<std::vector<float>> Results() const {
    return {attended_.Download().values, own_.Download().values, all_.Download().values};
  }

 private:
  static constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
  Backend& ops_;
  Weight w_;
  DeviceBuffer q_;
  DeviceMatrix attended_, own_, all_;
  std::vector<std::unique_ptr<SegmentedRows>> rows_;
};

class StepGpuTest : public GpuTest {
 protected:
  // Steps of `batch` on ops_, each held to what its ops give one by one on the same device.
  void ExpectTheSameBits(
      Batch& batch, const std::function<void()>& between = [] {}) {
    for (int step = 0; step < kSteps; ++step) {
      batch.SetQueries(100 + step);
      batch.Enqueue();
      const auto want = batch.Results();
      batch.SetQueries(0);
      batch.Enqueue();  // other values in the meantime
      ASSERT_NE(batch.Results(), want);
      batch.SetQueries(100 + step);
      ops_->BeginStep(kSequences);
      batch.Enqueue(between);
      ops_->EndStep();
      ASSERT_EQ(batch.Results(), want) << "step " << step;
    }
  }
  // Counters, of which a CPU has none.
  void ExpectStats(int64_t graph_launches, int64_t graphs_built, int64_t flushed) {
    if (TestsRunOnCpu()) return;
    const StepStats stats = ops_->step_stats();
    EXPECT_EQ(stats.steps, kSteps);
    EXPECT_EQ(stats.graph_launches, graph_launches);
    EXPECT_EQ(stats.graphs_built, graphs_built);
    EXPECT_EQ(stats.flushed, flushed);
  }
};

TEST_F(StepGpuTest, LanesInAStepGiveTheBitsOfOneOpAfterAnother) {
  Batch batch(*ops_);
  ExpectTheSameBits(batch);
  ExpectStats(kSteps, 1, 0);
}

TEST_F(StepGpuTest, WhatNeedsTheDeviceMayComeInAStep) {
  Batch batch(*ops_);
  std::vector<float> room;
  const DeviceMatrix other(*ops_, RandomMatrix(1, 8, 3));
  ExpectTheSameBits(batch, [&] {
    const auto memory = ops_->Allocate(1000);
    ASSERT_TRUE(memory.ok());
    EXPECT_EQ(ops_->ReadBack({memory->As<float>(), 250}, &room)[249], 0.0f);
    ops_->Upload(std::as_bytes(other.Download().row(0)), memory->data());
    ops_->Synchronize();
  });
  ExpectStats(0, 0, kSteps);
}

TEST_F(StepGpuTest, MemoryGivenBackInAStepIsNobodyElsesBeforeItsReadersRan) {
  Batch batch(*ops_);
  DeviceMatrix from(*ops_, RandomMatrix(1, kWidth, 4)), to(*ops_, 1, kOutputs);
  const Weight w = RandomWeight(DType::kQ4_1, kOutputs, kWidth, 5).Load(*ops_);
  ops_->MatMul(from.view(), w, to.view());
  const std::vector<float> want = to.Download().values;
  for (int step = 0; step < kSteps; ++step) {
    auto read = std::make_unique<DeviceMatrix>(*ops_, RandomMatrix(1, kWidth, 4));
    ops_->BeginStep(1);
    ops_->MatMul(read->view(), w, to.view());
    read.reset();
    const DeviceMatrix next(*ops_, 1, kWidth);  // in its place, of NaN
    ops_->EndStep();
    EXPECT_EQ(to.Download().values, want);
  }
}

TEST_F(StepGpuTest, WithoutMemoryForEveryLaneAStepGivesTheSameBits) {
  if (TestsRunOnCpu()) GTEST_SKIP() << "the CPU backend's scratch is no device memory";
  auto small = MakeTestedBackend(int64_t{96} << 20);
  ASSERT_TRUE(small.ok()) << small.status();
  ops_ = *std::move(small);
  Batch batch(*ops_);
  batch.SetQueries(1);
  batch.Enqueue();  // has the scratch of one lane
  std::vector<DeviceBuffer> rest;
  for (int64_t bytes = int64_t{64} << 20; bytes > 0; bytes /= 2) {
    while (true) {
      auto piece = ops_->Allocate(bytes);
      if (!piece.ok()) break;
      rest.push_back(*std::move(piece));
    }
  }
  ExpectTheSameBits(batch);
  ExpectStats(0, 0, kSteps);
}

// A host that answers each number once it is rung, after looking at the query.
class Answering {
 public:
  static constexpr int kRow = 64;
  Answering(DoorbellMemory memory, float* values, uint64_t count)
      : thread_([=] {
          for (uint64_t number = 1; number <= count; ++number) {
            while (memory.words().rung.load(std::memory_order_acquire) < number) {
              std::this_thread::yield();
            }
            const float asked = memory.query(number)[0];
            for (int i = 0; i < 2 * kRow; ++i) {
              values[number % kDoorbellSlots * 2 * kRow + i] = asked;
            }
            memory.words().answered.store(number, std::memory_order_release);
          }
        }) {}
  ~Answering() { thread_.join(); }

 private:
  std::thread thread_;
};

// Two layers of three sequences: a post of the next layer comes before the answer of this one is
// read, and slots go round. The answer to a query is its value.
TEST_F(StepGpuTest, RingsInLanesComeInOrderAndAfterTheirSlotsWereRead) {
  constexpr int kRow = Answering::kRow, kLanes = 3, kLayers = 5;
  HostDoorbell host;
  DoorbellStream* const stream = TestsRunOnCpu() ? &host : ops_->doorbell();
  const DoorbellMemory memory(*stream->Shared(DoorbellMemory::Bytes(kRow)), kRow);
  auto* const values =
      reinterpret_cast<float*>(stream->Shared(kDoorbellSlots * 2 * kRow * sizeof(float))->data());
  HostMatrix q(kLayers * kLanes, kRow);
  auto out = *ops_->Allocate(kLayers * kLanes * 2 * kRow * sizeof(BFloat16));
  auto device_q = *ops_->Allocate(q.values.size() * sizeof(float));
  const Answering answering(memory, values, kSteps * kLayers * kLanes);
  uint64_t posted = 0, taken = 0;
  for (int step = 0; step < kSteps; ++step) {
    for (size_t i = 0; i < q.values.size(); ++i) {
      q.values[i] = static_cast<float>(step * 20 + i / kRow);
    }
    ops_->Upload(std::as_bytes(std::span(q.values)), device_q.data());
    ops_->BeginStep(kLanes);
    const uint64_t before = posted, end = before + kLayers * kLanes;
    const auto post_up_to = [&](uint64_t number) {
      while (posted < std::min(number, end)) {
        const auto row = static_cast<int64_t>(posted++ - before);
        ops_->BeginLane(static_cast<int>(row % kLanes));
        stream->Ring({device_q.As<float>() + row * kRow, kRow}, memory, posted);
      }
    };
    for (int row = 0; row < kLayers * kLanes; ++row) {
      post_up_to(taken + kDoorbellSlots);
      ops_->BeginLane(row % kLanes);
      stream->Await(memory, ++taken);
      float* const answer = values + taken % kDoorbellSlots * 2 * kRow;
      BFloat16* const rows[] = {out.As<BFloat16>() + row * 2 * kRow};
      ops_->WriteRows({answer, 1, kRow}, {answer + kRow, 1, kRow}, rows, kRow);
      if (row % kLanes == kLanes - 1) ops_->EndLanes();
    }
    ops_->EndStep();
    std::vector<BFloat16> got(kLayers * kLanes * 2 * kRow);
    ops_->Download(out.data(), std::as_writable_bytes(std::span(got)));
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(ToFloat(got[i]), q.values[i / (2 * kRow) * kRow]) << "step " << step << ", " << i;
    }
  }
  ExpectStats(kSteps, 1, 0);
}

}  // namespace
}  // namespace tailor
