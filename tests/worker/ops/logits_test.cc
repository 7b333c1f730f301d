// ReduceLogits against its reference.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/worker/ops/logits_case.h"
#include "worker/ops/logit_math.h"
#include "worker/ops/reference.h"

namespace tailor {
namespace {

class LogitsTest : public OpTest {};
INSTANTIATE_AT_EVERY_SIMD_LEVEL(LogitsTest);

void ExpectIsReference(const LogitsCase& c, const std::vector<LogitReduction>& got) {
  for (size_t r = 0; r < got.size(); ++r) {
    SCOPED_TRACE(absl::StrCat("vocab ", c.logits.cols, ", row ", r, ", candidates ",
                              c.queries[r].candidates, " of ", got.size(), " rows"));
    LogitReduction want = ReduceLogitsRef(c.logits.row(static_cast<int64_t>(r)), c.queries[r]);
    if (c.queries[r].candidates > 0) {
      const double allowed = SumTolerance(c.logits.cols);
      EXPECT_EQ(got[r].max_logit, want.max_logit);
      EXPECT_NEAR(got[r].sum, want.sum, allowed * want.sum);
      EXPECT_NEAR(got[r].mass, want.mass, allowed * want.mass);
      want.max_logit = got[r].max_logit;
      want.sum = got[r].sum;
      want.mass = got[r].mass;
      ASSERT_EQ(BitsOf(got[r]), BitsOf(want));
    } else {
      EXPECT_TRUE(got[r].candidates.empty());
    }
  }
}

TEST_P(LogitsTest, CandidatesAreTheReferencesAndSumsItsWithinTheirRoundings) {
  for (const LogitsCase& c : RandomLogitsCases()) ExpectIsReference(c, Reduce(*ops_, c));
}

TEST_P(LogitsTest, EveryLevelAndThreadCountGivesTheSameBits) {
  const auto scalar = *MakeCpuBackend({.threads = 1, .max_simd_level = SimdLevel::kScalar});
  const auto threads = MakeBackend(3);
  for (const LogitsCase& c : RandomLogitsCases()) {
    const auto want = Reduce(*scalar, c), got = Reduce(*ops_, c), shared = Reduce(*threads, c);
    for (size_t r = 0; r < want.size(); ++r) {
      ASSERT_EQ(BitsOf(got[r]), BitsOf(want[r])) << c.logits.cols << " row " << r;
      ASSERT_EQ(BitsOf(shared[r]), BitsOf(want[r])) << c.logits.cols << " row " << r;
    }
  }
}

TEST_P(LogitsTest, ARowIsTheSameInEveryBatch) {
  LogitsCase all(RandomMatrix(16, 5000, 3, 2), {.candidates = 40, .mass = true});
  for (int64_t r = 0; r < 16; ++r) all.AdjustAtRandom(r, 50, r);
  const auto got = Reduce(*ops_, all);
  for (int64_t r = 0; r < 16; ++r) {
    HostMatrix row(1, 5000);
    std::copy_n(all.logits.row(r).begin(), 5000, row.values.begin());
    LogitsCase alone(row, all.queries[r]);
    EXPECT_EQ(BitsOf(got[r]), BitsOf(Reduce(*ops_, alone)[0])) << r;
  }
}

TEST_P(LogitsTest, TiesGoToTheLowerId) {
  for (const int64_t vocab : {31, 5000}) {
    for (const int distinct : {1, 2, 5}) {
      HostMatrix logits(1, vocab);
      for (int64_t i = 0; i < vocab; ++i) {
        logits.values[i] = static_cast<float>(i * 7 % distinct) - 1.0f;
      }
      logits.values[vocab - 1] = logits.values[vocab / 2] = -0.0f;
      const LogitsCase c(logits, {.temperature = 0.9f, .candidates = 300, .mass = true});
      ExpectIsReference(c, Reduce(*ops_, c));
    }
  }
}

TEST_P(LogitsTest, NeighbouringValuesAreToldApart) {
  std::mt19937_64 random(6);
  HostMatrix logits(1, 3000);
  for (uint32_t i = 0; i < 3000; ++i) logits.values[i] = std::bit_cast<float>(0x3f800000u + i);
  for (int shuffle = 0; shuffle < 10; ++shuffle) {
    std::shuffle(logits.values.begin(), logits.values.end(), random);
    for (const int32_t candidates : {1, 2, 50}) {
      const LogitsCase c(logits, {.candidates = candidates});
      ExpectIsReference(c, Reduce(*ops_, c));
    }
  }
}

// Neighbours whose quotients are one number are a tie.
TEST_P(LogitsTest, ValuesAreRankedAsTheyAreRounded) {
  HostMatrix logits(1, 2);
  int ties = 0;
  for (float low = 1.9f; ties < 3; low = std::nextafter(low, 2.0f)) {
    const float high = std::nextafter(low, 2.0f);
    if (low / 1.5f != high / 1.5f) continue;
    ++ties;
    logits.values = {low, high};
    const LogitsCase c(logits, {.temperature = 1.5f, .candidates = 2});
    const auto got = Reduce(*ops_, c)[0].candidates;
    EXPECT_EQ(got[0].token, 0);
    EXPECT_EQ(got[1].logit, high);
  }
}

TEST_P(LogitsTest, NanRanksLastAndHasNoPartInTheSums) {
  HostMatrix logits = RandomMatrix(1, 5000, 4);
  for (const int64_t i : {0, 1, 17, 2048, 4999}) logits.values[i] = NAN;
  logits.values[3] = -std::numeric_limits<float>::infinity();
  for (const int32_t candidates : {1, 1000}) {
    const LogitsCase c(logits, {.temperature = 0.5f, .candidates = candidates, .mass = true});
    ExpectIsReference(c, Reduce(*ops_, c));
  }
}

TEST_P(LogitsTest, InfinityIsTheBestCandidate) {
  HostMatrix logits = RandomMatrix(1, 3000, 4);
  logits.values[2999] = std::numeric_limits<float>::infinity();
  const LogitsCase c(logits, {.candidates = 2, .mass = true});
  EXPECT_EQ(Reduce(*ops_, c)[0].candidates[0].token, 2999);
}

TEST(LogitMathTest, TheExponentialIsWithinItsBound) {
  double worst = 0;
  for (int i = 0; i <= 2'000'000; ++i) {
    const double x = -708.0 * std::pow(i / 2e6, 3);
    const long double exact = std::exp(static_cast<long double>(x));
    worst = std::max(worst, static_cast<double>(std::abs(LogitExp(x) / exact - 1)));
  }
  EXPECT_LT(worst, 0x1p-46);
  EXPECT_EQ(LogitExp(0), 1);
  EXPECT_EQ(LogitExp(-708.1), 0);
  EXPECT_EQ(LogitExp(-INFINITY), 0);
  EXPECT_EQ(LogitExp(NAN), 0);
}

TEST(LogitMathTest, KeysSortAsValuesAndGiveThemBack) {
  const float values[] = {-INFINITY, -3e38f, -1.0f, -1e-45f, 0.0f, 1e-45f, 1.0f, 3e38f, INFINITY};
  for (size_t i = 0; i < std::size(values); ++i) {
    EXPECT_EQ(ValueOf(CandidateKey(values[i], 5)), values[i]);
    EXPECT_EQ(TokenOf(CandidateKey(values[i], 5)), 5);
    EXPECT_GT(CandidateKey(values[i], 5), CandidateKey(values[i], 6));
    if (i == 0) continue;
    EXPECT_GT(CandidateKey(values[i], 6), CandidateKey(values[i - 1], 5));
  }
  EXPECT_EQ(ValueRank(-0.0f), ValueRank(0.0f));
  EXPECT_EQ(ValueRank(NAN), ValueRank(-INFINITY));
}

}  // namespace
}  // namespace tailor
