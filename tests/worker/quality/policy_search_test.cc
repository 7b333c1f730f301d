// The choice among measured policies, and the search, over a made-up quality: what must hold
// whatever a model would measure.
#include "worker/quality/policy_search.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

namespace tailor {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kContext = 3500;

LlamaHyperparameters Model() {
  LlamaHyperparameters model;
  model.layers = 6;
  model.hidden = 256;
  model.q_heads = 4;
  model.kv_heads = 2;
  model.head_dim = 64;
  return model;
}

PoolShape Shape() { return {.layers = 6, .kv_heads = 2, .head_dim = 64, .sparse_layers = {}}; }

Fingerprint Weights() { return Fingerprinter().AddInt(1).Finish(); }

// With fewer bits than the default: there is something to gain.
LayerPolicy Start() {
  LayerPolicy policy = LayerPolicy::Default("m", Weights(), Model());
  policy.bits = 2;
  return policy;
}

// Better with more rows (some layers more than others), channels, bits and window, plus a little
// that only the fingerprint decides.
TextSummary MadeUpQuality(const LayerPolicy& policy, uint64_t seed) {
  TextSummary summary;
  double kl = 0;
  for (int32_t layer = 0; layer < 6; ++layer) {
    LayerQuality& quality = summary.layers.emplace_back();
    quality.steps = 1;
    if (policy.IsQuantized(layer)) {
      kl += 0.02 * (layer + 1) / policy.bits;
      continue;
    }
    const double rows =
        policy.layer_top_k.empty() ? policy.select.top_k : policy.layer_top_k[layer];
    const double miss = 1 / (1 + rows / (8.0 * (1 + layer))) + 0.2 / policy.select.channels;
    quality.heads = 1;
    quality.recall_sum = 1 - miss / 2;
    kl += miss * 0.01;
  }
  const uint64_t lot = policy.fingerprint().bytes[0] ^ seed;
  summary.kl.mean = kl * (1 + static_cast<double>(lot % 256) / 2560);
  return summary;
}

struct Searched {
  SearchResult result;
  std::vector<std::string> asked;  // fingerprints, in order
};

Searched Search(const CalibrationLimits& limits, uint64_t seed = 0,
                std::vector<int32_t> dense = {0, 3}) {
  Searched searched;
  PolicySearch search({.start = Start(),
                       .model = Model(),
                       .shape = Shape(),
                       .dense_layers = std::move(dense),
                       .context_tokens = kContext,
                       .limits = limits,
                       .space = {}},
                      [&](const LayerPolicy& policy, const std::string&) {
                        searched.asked.push_back(policy.fingerprint().ToHex());
                        return MadeUpQuality(policy, seed);
                      });
  auto result = search.Run();
  EXPECT_TRUE(result.ok()) << result.status();
  searched.result = *std::move(result);
  return searched;
}

// The documented order as pairwise comparison of one policy with all others.
bool IsChosen(const std::vector<MeasuredPolicy>& all, size_t candidate,
              const CalibrationLimits& limits) {
  double excess = 1e30, fetched = 1e30, lowest = 1e30;
  for (const auto& m : all) excess = std::min(excess, ByteExcess(m.cost, limits));
  const auto eligible = [&](const MeasuredPolicy& m) {
    return ByteExcess(m.cost, limits) == excess;
  };
  bool any_reaches = false;
  for (const auto& m : all) {
    if (!eligible(m) || !limits.kl || m.kl() > *limits.kl) continue;
    any_reaches = true;
    fetched = std::min(fetched, static_cast<double>(m.cost.fetched_bytes));
  }
  const auto stays = [&](const MeasuredPolicy& m) {
    return eligible(m) && (!any_reaches || (m.kl() <= *limits.kl &&
                                            static_cast<double>(m.cost.fetched_bytes) == fetched));
  };
  for (const auto& m : all) {
    if (stays(m)) lowest = std::min(lowest, m.kl());
  }
  const auto near = [&](const MeasuredPolicy& m) {
    return stays(m) && m.kl() <= lowest * (1 + kKlTolerance);
  };
  if (!near(all[candidate])) return false;
  for (size_t i = 0; i < all.size(); ++i) {
    if (i == candidate || !near(all[i])) continue;
    const auto key = [&](size_t j) {
      const PolicyCost& cost = all[j].cost;
      return std::tuple(cost.fetched_bytes, cost.device_bytes, cost.scored_bytes, j);
    };
    if (key(i) < key(candidate)) return false;
  }
  return true;
}

std::vector<CalibrationLimits> SomeLimits() {
  return {{},
          {.device_bytes = {}, .fetched_bytes = 200'000, .kl = {}},
          {.device_bytes = 1'700'000, .fetched_bytes = {}, .kl = {}},
          {.device_bytes = {}, .fetched_bytes = {}, .kl = 0.03},
          {.device_bytes = {}, .fetched_bytes = 400'000, .kl = 0.025},
          {.device_bytes = 3'000'000, .fetched_bytes = 900'000, .kl = {}}};
}

MeasuredPolicy Measured(int64_t fetched, int64_t device, double kl, int64_t scored = 0) {
  MeasuredPolicy measured;
  measured.cost = {.fetched_bytes = fetched, .device_bytes = device, .scored_bytes = scored};
  measured.quality.kl.mean = kl;
  return measured;
}

TEST(PolicyCostTest, BytesAreThoseOfRowsCodesAndIndex) {
  LayerPolicy policy = Start();
  // 5 sparse layers, 128 rows, 2 KV heads, K and V of 64 channels in bf16.
  const PolicyCost cost = PolicyCost::Of(policy, Shape(), kContext);
  EXPECT_EQ(cost.fetched_bytes, 5 * 128 * 2 * 256);
  // 27 whole pages: 24 channels of 4 bits a token, scale and minimum; 192 keys looked at again.
  EXPECT_EQ(cost.scored_bytes, 5 * 2 * (27 * 24 * (64 + 8) + 192 * 128));
  policy.layer_top_k = {999, 1, 2, 3, 4, 5};
  EXPECT_EQ(PolicyCost::Of(policy, Shape(), kContext).fetched_bytes, 15 * 2 * 256)
      << "a quantized layer's number is not used";
  LayerPolicy wider = Start();
  wider.bits = 8;
  EXPECT_GT(PolicyCost::Of(wider, Shape(), kContext).device_bytes, cost.device_bytes);
}

TEST(ChooseMeasuredTest, WithByteLimitsTheLowestKlWithinThem) {
  const std::vector<MeasuredPolicy> all = {Measured(100, 10, 0.5), Measured(200, 10, 0.2),
                                           Measured(300, 10, 0.1), Measured(200, 99, 0.01)};
  EXPECT_EQ(ChooseMeasured(all, {.device_bytes = 50, .fetched_bytes = 200, .kl = {}}), 1u);
  EXPECT_EQ(ChooseMeasured(all, {.device_bytes = 50, .fetched_bytes = {}, .kl = {}}), 2u);
}

TEST(ChooseMeasuredTest, WithAQualityTheFewestBytesThatReachIt) {
  const std::vector<MeasuredPolicy> all = {Measured(300, 10, 0.1), Measured(200, 10, 0.2),
                                           Measured(200, 11, 0.15), Measured(100, 10, 0.5)};
  const CalibrationLimits limits = {.device_bytes = {}, .fetched_bytes = {}, .kl = 0.3};
  EXPECT_EQ(ChooseMeasured(all, limits), 2u) << "of equally many bytes the lower KL";
  EXPECT_EQ(ChooseMeasured(all, {.device_bytes = {}, .fetched_bytes = {}, .kl = 0.01}), 0u)
      << "none reaches it: the lowest KL";
  EXPECT_FALSE(MeetsLimits(all[0], {.device_bytes = {}, .fetched_bytes = {}, .kl = 0.01}));
}

TEST(ChooseMeasuredTest, BetweenEqualKlsBytesDecide) {
  const std::vector<MeasuredPolicy> all = {Measured(200, 10, 0.1, 5), Measured(200, 10, 0.101, 4),
                                           Measured(200, 10, 0.103, 1), Measured(300, 9, 0.1, 1)};
  EXPECT_EQ(ChooseMeasured(all, {.device_bytes = {}, .fetched_bytes = 300, .kl = {}}), 1u)
      << "0.101 is within two per cent of 0.1, 0.103 is not";
}

TEST(ChooseMeasuredTest, WhereNothingKeepsTheLimitsTheClosestIsTaken) {
  const std::vector<MeasuredPolicy> all = {Measured(400, 10, 0.1), Measured(300, 10, 0.9)};
  const CalibrationLimits limits = {.device_bytes = {}, .fetched_bytes = 100, .kl = {}};
  EXPECT_EQ(ChooseMeasured(all, limits), 1u);
  EXPECT_DOUBLE_EQ(ByteExcess(all[1].cost, limits), 2);
}

TEST(ChooseMeasuredTest, TheChoiceIsTheOneThatComparingAllWithAllFinds) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937_64 random(seed);
    std::vector<MeasuredPolicy> all(1 + random() % 12);
    for (auto& m : all) {
      m = Measured(static_cast<int64_t>(random() % 4), static_cast<int64_t>(random() % 4),
                   1 + static_cast<double>(random() % 8) / 100, static_cast<int64_t>(random() % 3));
    }
    CalibrationLimits limits;
    if (random() % 2) limits.fetched_bytes = static_cast<int64_t>(random() % 4);
    if (random() % 2) limits.device_bytes = static_cast<int64_t>(random() % 4);
    if (random() % 2) limits.kl = 1 + static_cast<double>(random() % 8) / 100;
    const size_t chosen = ChooseMeasured(all, limits);
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(IsChosen(all, i, limits), i == chosen) << i;
  }
}

TEST(ParetoFrontTest, NothingOnItIsBeatenByFewerBytes) {
  const std::vector<MeasuredPolicy> all = {Measured(300, 0, 0.1), Measured(100, 0, 0.5),
                                           Measured(200, 0, 0.6), Measured(200, 0, 0.2),
                                           Measured(400, 0, 0.1)};
  EXPECT_THAT(ParetoFront(all), ElementsAre(1, 3, 0));
}

TEST(PolicySearchTest, TheChoiceObeysTheLimitsAndIsTheBestOfWhatWasMeasured) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    for (const CalibrationLimits& limits : SomeLimits()) {
      SCOPED_TRACE(testing::Message() << "seed " << seed);
      const SearchResult result = Search(limits, seed).result;
      EXPECT_TRUE(IsChosen(result.measured, result.chosen, result.limits));
      EXPECT_TRUE(MeetsLimits(result.measured[result.chosen], result.limits));
      EXPECT_TRUE(result.measured[result.chosen].policy.Validate(Model(), Weights()).ok());
    }
  }
}

TEST(PolicySearchTest, NothingIsMeasuredTwiceNorMoreThanAnnounced) {
  for (const CalibrationLimits& limits : SomeLimits()) {
    const Searched searched = Search(limits);
    EXPECT_EQ(std::set(searched.asked.begin(), searched.asked.end()).size(), searched.asked.size());
    EXPECT_LE(static_cast<int64_t>(searched.asked.size()), SearchSpace().MaxTried(2));
    EXPECT_EQ(searched.asked.size(), searched.result.measured.size());
  }
}

TEST(PolicySearchTest, TheSameMeasurementsGiveTheSameSearch) {
  for (const CalibrationLimits& limits : SomeLimits()) {
    EXPECT_EQ(Search(limits, 5).asked, Search(limits, 5).asked);
  }
}

TEST(PolicySearchTest, WithoutLimitsTheDefaultsBytesAreTheLimitsAndTheDefaultIsBeaten) {
  const SearchResult result = Search({}).result;
  const MeasuredPolicy &baseline = result.measured[0], &chosen = result.measured[result.chosen];
  EXPECT_EQ(baseline.step, "default");
  EXPECT_EQ(result.limits.fetched_bytes, baseline.cost.fetched_bytes);
  EXPECT_EQ(result.limits.device_bytes, baseline.cost.device_bytes);
  EXPECT_LE(chosen.cost.fetched_bytes, baseline.cost.fetched_bytes);
  EXPECT_LT(chosen.kl(), baseline.kl());
}

TEST(PolicySearchTest, RowsByLayerKeepTheTotalAndFollowTheRecallCurves) {
  const SearchResult result = Search({}).result;
  bool found = false;
  for (const MeasuredPolicy& m : result.measured) {
    if (m.policy.layer_top_k.empty()) continue;
    found = true;
    EXPECT_EQ(FetchedRows(m.policy, 6), 128 * 5);
    // In the made-up quality the higher layers attend more widely.
    EXPECT_GT(m.policy.layer_top_k[5], m.policy.layer_top_k[1]);
  }
  EXPECT_TRUE(found);
}

TEST(PolicySearchTest, AQualityIsReachedWithFewerRowsThanTheLadderAloneNeeds) {
  const CalibrationLimits limits = {.device_bytes = {}, .fetched_bytes = {}, .kl = 0.03};
  const SearchResult result = Search(limits).result;
  int64_t ladder = std::numeric_limits<int64_t>::max();
  for (const MeasuredPolicy& m : result.measured) {
    LayerPolicy plain = m.policy;
    plain.select.top_k = Start().select.top_k;
    if (plain.fingerprint() == Start().fingerprint() && m.kl() <= *limits.kl) {
      ladder = std::min(ladder, m.cost.fetched_bytes);
    }
  }
  EXPECT_LT(result.measured[result.chosen].cost.fetched_bytes, ladder);
}

TEST(PolicySearchTest, TheFewestRowsThatReachAQualityAreFoundBetweenTheLaddersNumbers) {
  for (const double kl : {0.02, 0.025, 0.03, 0.035}) {
    SCOPED_TRACE(kl);
    const SearchResult result = Search({.device_bytes = {}, .fetched_bytes = {}, .kl = kl}).result;
    const MeasuredPolicy& chosen = result.measured[result.chosen];
    ASSERT_LE(chosen.kl(), kl);
    // One like it, with at most 16 rows a layer fewer, was measured and missed.
    const int64_t sparse = static_cast<int64_t>(chosen.policy.SparseLayers(6).size());
    const int64_t rows = FetchedRows(chosen.policy, 6);
    bool bracketed = false;
    for (const MeasuredPolicy& m : result.measured) {
      const int64_t fewer = rows - FetchedRows(m.policy, 6);
      bracketed |= fewer > 0 && fewer <= 16 * sparse && m.kl() > kl;
    }
    EXPECT_TRUE(bracketed) << rows / sparse;
  }
}

TEST(PolicySearchTest, ALimitBelowTheLadderIsFilledExactly) {
  // 20 rows in each of five layers, 2 KV heads, 256 bytes a row; a byte short of 21.
  const int64_t limit = 21 * 5 * 2 * 256 - 1;
  const SearchResult result =
      Search({.device_bytes = {}, .fetched_bytes = limit, .kl = {}}, 0, /*dense=*/{}).result;
  EXPECT_EQ(FetchedRows(result.measured[result.chosen].policy, 6), 20 * 5);
}

TEST(PolicySearchTest, AHeadDimThatCodesDoNotAllowLeavesAllLayersSparse) {
  LlamaHyperparameters narrow = Model();
  narrow.head_dim = 32;
  PoolShape shape = Shape();
  shape.head_dim = 32;
  PolicySearch search({.start = LayerPolicy::Default("m", Weights(), narrow),
                       .model = narrow,
                       .shape = shape,
                       .dense_layers = {0, 1},
                       .context_tokens = kContext,
                       .limits = {},
                       .space = {}},
                      [&](const LayerPolicy& policy, const std::string&) {
                        EXPECT_TRUE(policy.Validate(narrow, Weights()).ok());
                        return MadeUpQuality(policy, 0);
                      });
  const auto result = search.Run();
  ASSERT_TRUE(result.ok());
  for (const MeasuredPolicy& m : result->measured) EXPECT_TRUE(m.policy.quantized_layers.empty());
}

TEST(PolicySearchTest, AMeasurementThatFailsEndsTheSearchWithItsStatus) {
  int left = 5;
  PolicySearch search(
      {.start = Start(),
       .model = Model(),
       .shape = Shape(),
       .dense_layers = {0},
       .context_tokens = kContext,
       .limits = {},
       .space = {}},
      [&](const LayerPolicy& policy, const std::string&) -> absl::StatusOr<TextSummary> {
        if (--left == 0) return absl::CancelledError("now");
        return MadeUpQuality(policy, 0);
      });
  EXPECT_EQ(search.Run().status(), absl::CancelledError("now"));
}

}  // namespace
}  // namespace tailor
