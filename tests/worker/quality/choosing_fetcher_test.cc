// Each control chooses what its rule says, by brute force in double over known rows.
#include "worker/quality/choosing_fetcher.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "tests/worker/quality/attention_case.h"

namespace tailor {
namespace {

constexpr int64_t kTokens = 700;
constexpr int32_t kSealedTokens = 512;  // four pages; candidates are 8..511

class ChoosingFetcherTest : public ::testing::Test, public AttendProbe {
 protected:
  MatrixView<float> lse() override { return {lse_, 1, kQHeads}; }
  void OnAttend(int32_t layer, const PagedRows&, const AttendCall& call) override {
    fetched_[layer].assign(call.fetched.tokens.begin(), call.fetched.tokens.end());
  }

  using Maker = std::function<std::unique_ptr<RowFetcher>(const SelectParams&, SequenceCache&)>;
  // What each layer fetched in one step: [kv_heads][count].
  std::vector<std::vector<int32_t>> Fetched(const HostMatrix& q, int32_t top_k, const Maker& make) {
    auto cache = *rig_.Open("s" + std::to_string(runs_++), CacheMode::kHybrid);
    SelectParams params = rig_.policy.select;
    params.top_k = top_k;
    if (auto fetcher = make(params, *cache)) cache->set_fetcher(std::move(fetcher));
    cache->set_probe(this);
    DrivenSequence sequence(rig_, *cache);
    EXPECT_TRUE(sequence.PrefillTo(kTokens).ok());
    EXPECT_TRUE(cache->Reserve(kTokens + 1).ok());
    EXPECT_TRUE(sequence.Decode(q).ok());
    EXPECT_TRUE(rig_.client->CloseSequence(cache->handle()).ok());
    return fetched_;
  }
  std::vector<std::vector<int32_t>> Oracle(const HostMatrix& q, int32_t top_k) {
    return Fetched(q, top_k, [&](const SelectParams& params, SequenceCache& cache) {
      return MakeOracleFetcher(rig_.ops.get(), params, cache);
    });
  }
  std::vector<std::vector<int32_t>> Quest(const HostMatrix& q, int32_t top_k) {
    return Fetched(q, top_k, [&](const SelectParams& params, SequenceCache&) {
      return MakeQuestFetcher(rig_.ops.get(), params, rig_.pool.shape());
    });
  }
  std::vector<std::vector<int32_t>> Random(const HostMatrix& q, int32_t top_k, uint64_t seed) {
    return Fetched(q, top_k, [&](const SelectParams& params, SequenceCache&) {
      return MakeRandomFetcher(rig_.ops.get(), params, kHeads, seed);
    });
  }

  // Mass of a layer's fetched rows, summed over the query heads of each KV head.
  static double MassOf(const HostMatrix& q, int32_t layer, std::span<const int32_t> fetched) {
    const auto masses = ExactMasses(q, layer, kTokens + 1);
    const size_t count = fetched.size() / kHeads;
    double sum = 0;
    for (int32_t head = 0; head < kQHeads; ++head) {
      for (size_t i = 0; i < count; ++i) {
        sum += masses[head][fetched[head / (kQHeads / kHeads) * count + i]];
      }
    }
    return sum;
  }

  CacheRig rig_;
  std::vector<std::vector<int32_t>> fetched_{3};
  float lse_[kQHeads];
  int runs_ = 0;
};

TEST_F(ChoosingFetcherTest, TheOracleTakesTheLargestMassesOfAll) {
  const HostMatrix q = TestQuery();
  const auto fetched = Oracle(q, 32);
  for (const int32_t layer : {1, 2}) {
    const auto masses = ExactMasses(q, layer, kTokens + 1);
    double best = 0;
    for (int32_t head = 0; head < kHeads; ++head) {
      std::vector<double> sums;
      for (int32_t t = 8; t < kSealedTokens; ++t) {
        sums.push_back(masses[2 * head][t] + masses[2 * head + 1][t]);
      }
      std::sort(sums.rbegin(), sums.rend());
      best += std::accumulate(sums.begin(), sums.begin() + 32, 0.0);
    }
    EXPECT_NEAR(MassOf(q, layer, fetched[layer]), best, 1e-6);
  }
}

TEST_F(ChoosingFetcherTest, NoOtherMethodHasALargerMassThanTheOracleInAnyLayer) {
  for (uint64_t seed = 1; seed <= 3; ++seed) {
    const HostMatrix q = TestQuery(seed);
    const auto oracle = Oracle(q, 32), quest = Quest(q, 32), random = Random(q, 32, seed),
               ours = Fetched(q, 32, [](const SelectParams&, SequenceCache&) { return nullptr; });
    for (const int32_t layer : {1, 2}) {
      SCOPED_TRACE(testing::Message() << "seed " << seed << " layer " << layer);
      const double best = MassOf(q, layer, oracle[layer]) + 1e-6;
      EXPECT_LE(MassOf(q, layer, ours[layer]), best);
      EXPECT_LE(MassOf(q, layer, quest[layer]), best);
      EXPECT_LT(MassOf(q, layer, random[layer]), 0.8 * best);
      EXPECT_GT(MassOf(q, layer, ours[layer]), MassOf(q, layer, random[layer]));
    }
  }
}

// A head whose mass lies in the window must not outvote one whose mass is far: normalising over the
// candidates alone would give both the same say.
TEST_F(ChoosingFetcherTest, TheOracleWeighsQueryHeadsByTheMassThatIsFar) {
  HostMatrix q(1, kQHeads * kHeadDim);
  const auto set = [&](int32_t head, int64_t token, float size) {
    const auto row = KnownRow(1, head / 2, token);
    for (int32_t c = 0; c < kHeadDim; ++c)
      q.view()(0, head * kHeadDim + c) += size * ToFloat(row[c]);
  };
  for (const int32_t head : {0, 2}) {  // nearly all mass on a token of the window, the rest on 100
    set(head, kTokens - 1, 14);
    set(head, 100, 8);
  }
  for (const int32_t head : {1, 3}) set(head, 300, 3);  // spread, the most on 300
  const auto fetched = Oracle(q, 1);
  EXPECT_EQ(fetched[1][0], 300);
  EXPECT_EQ(fetched[1][1], 300);
}

TEST_F(ChoosingFetcherTest, QuestTakesWholePagesByItsBoundAndCutsTheLast) {
  const HostMatrix q = TestQuery();
  const auto fetched = Quest(q, 40);  // two pages and a half
  for (int32_t head = 0; head < kHeads; ++head) {
    std::vector<std::pair<double, int32_t>> bounds;  // descending, ties to the lower page
    for (int32_t first = 8; first < kSealedTokens; first += 16) {
      double bound = 0;
      for (int32_t c = 0; c < kHeadDim; ++c) {
        double low = 1e9, high = -1e9;
        for (int32_t t = first; t < std::min(first + 16, kSealedTokens); ++t) {
          low = std::min<double>(low, ToFloat(KnownRow(1, head, t)[c]));
          high = std::max<double>(high, ToFloat(KnownRow(1, head, t)[c]));
        }
        for (const int32_t g : {2 * head, 2 * head + 1}) {
          const double value = q.row(0)[g * kHeadDim + c];
          bound += std::max(value * low, value * high);
        }
      }
      bounds.emplace_back(-bound, first);
    }
    std::sort(bounds.begin(), bounds.end());
    std::set<int32_t> want;
    for (size_t i = 0; want.size() < 40; ++i) {
      for (int32_t t = bounds[i].second; t < bounds[i].second + 16 && want.size() < 40; ++t) {
        if (t < kSealedTokens) want.insert(t);
      }
    }
    EXPECT_EQ(
        std::set<int32_t>(fetched[1].begin() + head * 40, fetched[1].begin() + head * 40 + 40),
        want);
  }
}

TEST_F(ChoosingFetcherTest, RandomRowsAreDifferentCandidatesAndFollowTheSeed) {
  const HostMatrix q = TestQuery();
  const auto one = Random(q, 64, 7), again = Random(q, 64, 7), other = Random(q, 64, 8);
  EXPECT_EQ(one, again);
  EXPECT_NE(one[1], other[1]);
  for (int32_t head = 0; head < kHeads; ++head) {
    const std::set<int32_t> tokens(one[1].begin() + head * 64, one[1].begin() + head * 64 + 64);
    EXPECT_EQ(tokens.size(), 64u);
    EXPECT_GE(*tokens.begin(), 8);
    EXPECT_LT(*tokens.rbegin(), kSealedTokens);
  }
  EXPECT_FALSE(std::equal(one[1].begin(), one[1].begin() + 64, one[1].begin() + 64))
      << "each head draws for itself";
}

TEST_F(ChoosingFetcherTest, MoreRowsThanCandidatesFetchesEveryCandidateOnce) {
  const HostMatrix q = TestQuery();
  for (const auto& fetched : {Oracle(q, 4096), Quest(q, 4096), Random(q, 4096, 1)}) {
    std::vector<int32_t> all(kSealedTokens - 8);
    std::iota(all.begin(), all.end(), 8);
    std::vector<int32_t> both = all;
    both.insert(both.end(), all.begin(), all.end());
    EXPECT_EQ(fetched[1], both);
  }
}

}  // namespace
}  // namespace tailor
