// Logits reduced on the device against the CPU backend: the same bits, sums included.
#include <random>

#include "tests/gpu/gpu_test.h"
#include "tests/worker/ops/logits_case.h"
#include "tests/worker/ops/weights_in_file.h"

namespace tailor {
namespace {

class SampleGpuTest : public GpuTest {
 protected:
  void ExpectTheCpusBits(const LogitsCase& c) { ExpectTheCpusBits(c, Reduce(*ops_, c)); }
  static void ExpectTheCpusBits(const LogitsCase& c, const std::vector<LogitReduction>& got) {
    static Backend* const cpu = MakeCpuBackend({.threads = 1})->release();
    const auto want = Reduce(*cpu, c);
    for (size_t r = 0; r < want.size(); ++r) {
      ASSERT_EQ(BitsOf(got[r]), BitsOf(want[r]))
          << "vocab " << c.logits.cols << ", row " << r << " of " << want.size() << ", "
          << c.queries[r].candidates << " candidates";
    }
  }
};

TEST_F(SampleGpuTest, EveryVocabularyAndBatchHasTheCpusBits) {
  for (const LogitsCase& c : RandomLogitsCases()) ExpectTheCpusBits(c);
}

TEST_F(SampleGpuTest, EveryNumberOfCandidatesHasTheCpusBits) {
  for (const int32_t candidates : {1, 2, 3, 31, 64, 65, 500, 512, 1023, 1024}) {
    for (const int64_t vocab : {700, 2048, 10000}) {
      LogitsCase c(RandomMatrix(2, vocab, vocab + candidates), {.candidates = candidates});
      c.queries[1].candidates = 2;
      ExpectTheCpusBits(c);
    }
  }
}

TEST_F(SampleGpuTest, TiesNanAndInfinitiesHaveTheCpusBits) {
  for (const int distinct : {1, 2, 5}) {
    HostMatrix logits(2, 5000);
    for (int64_t i = 0; i < 5000; ++i) {
      logits.values[i] = logits.values[5000 + i] = static_cast<float>(i * 7 % distinct) - 1;
    }
    for (const int64_t i : {0, 3, 2047, 4999}) logits.values[5000 + i] = NAN;
    logits.values[7000] = -std::numeric_limits<float>::infinity();
    logits.values[7001] = -0.0f;
    ExpectTheCpusBits({logits, {.temperature = 0.7f, .candidates = 700, .mass = true}});
    logits.values[9999] = std::numeric_limits<float>::infinity();
    ExpectTheCpusBits({logits, {.temperature = 1.7f, .candidates = 3, .mass = true}});
  }
}

TEST_F(SampleGpuTest, AnyBitsHaveTheCpusBits) {
  std::mt19937_64 random(5);
  HostMatrix logits(16, 4100);
  for (float& logit : logits.values) logit = std::bit_cast<float>(static_cast<uint32_t>(random()));
  LogitsCase c(logits, {.temperature = 0.9f, .candidates = 100, .mass = true});
  for (int64_t r = 0; r < 16; ++r) c.AdjustAtRandom(r, 3, r);
  ExpectTheCpusBits(c);
}

// What a step has recorded comes before the reduction, and what follows it after.
TEST_F(SampleGpuTest, LogitsThatAStepRecordedAreReducedInIt) {
  const FileWeight bias = RandomWeight(DType::kF32, 1, 5000, 3);
  LogitsCase c(RandomMatrix(2, 5000, 9), {.candidates = 30, .mass = true});
  c.AdjustAtRandom(1, 10, 4);
  const DeviceMatrix logits(*ops_, c.logits);
  const Weight weight = bias.Load(*ops_);
  std::vector<LogitReduction> got(2);
  ops_->BeginStep(2);
  ops_->AddBias(weight, logits.view());
  ops_->ReduceLogits(logits.view(), c.queries, got);
  ops_->AddBias(weight, logits.view());
  ops_->EndStep();
  const std::vector<float> added = bias.Values().values;
  for (size_t i = 0; i < c.logits.values.size(); ++i) c.logits.values[i] += added[i % 5000];
  ExpectTheCpusBits(c, got);
}

// More than a section of the argument ring holds.
TEST_F(SampleGpuTest, AdjustmentsOfAllTokensHaveTheCpusBits) {
  LogitsCase c(RandomMatrix(2, 100000, 8), {.candidates = 10, .mass = true});
  for (int64_t r = 0; r < 2; ++r) c.AdjustAtRandom(r, 1, r);
  ASSERT_GT(c.adjustments[0].size() * 2 * sizeof(LogitAdjustment), size_t{2} << 20);
  ExpectTheCpusBits(c);
}

}  // namespace
}  // namespace tailor
