#include "worker/turn_sampler.h"

#include <gtest/gtest.h>

#include "tests/worker/host_sampler.h"
#include "tests/worker/ops/op_test.h"

namespace tailor {
namespace {

constexpr int64_t kVocab = 3000;

struct TestedTurn {
  Turn turn;
  HostSampler want;

  TestedTurn(const SamplingParams& params, const std::vector<TokenId>& history)
      : want(params, history) {
    turn.request.history = history;
    turn.sampler.emplace(params, history);
  }
};

// Greedy, drawn from candidates, passed over, drawn from all logits, penalised: one call for all.
TEST(TurnSamplerTest, EveryTurnDrawsFromItsOwnRow) {
  const auto ops = *MakeCpuBackend({.threads = 2});
  TurnSampler sampler(ops.get());
  const std::vector<TokenId> history = {5, 6, 7, 8};
  TestedTurn greedy({}, history), steep({.temperature = 0.5f, .top_p = 0.9f, .seed = 4}, history),
      flat({.temperature = 50.0f, .top_p = 0.9f, .seed = 5}, {1, 2}),
      penalised({.temperature = 0.7f,
                 .top_k = 3,
                 .repetition_penalty = 1.5f,
                 .presence_penalty = 2.0f,
                 .seed = 6},
                history);
  TestedTurn* const tested[] = {&greedy, &steep, nullptr, &flat, &penalised};
  std::vector<Turn*> turns;
  for (TestedTurn* const t : tested) turns.push_back(t == nullptr ? nullptr : &t->turn);
  for (int step = 0; step < 30; ++step) {
    HostMatrix logits = RandomMatrix(6, kVocab, 100 + step, 5);  // a row more than turns
    const DeviceMatrix device(*ops, logits);
    const auto samples = sampler.Draw(device.view(), turns);
    ASSERT_EQ(samples.size(), turns.size());
    for (size_t i = 0; i < turns.size(); ++i) {
      if (turns[i] == nullptr) continue;
      const Sample want =
          tested[i]->want.Next(logits.row(static_cast<int64_t>(i)), turns[i]->total_tokens());
      EXPECT_EQ(samples[i].token, want.token) << "turn " << i << " step " << step;
      EXPECT_NEAR(samples[i].logprob, want.logprob, 0x1p-23 * std::abs(want.logprob) + 0x1p-40);
      ++turns[i]->report.generated_tokens;
    }
  }
}

TEST(TurnSamplerTest, NoTurnsAreNoWork) {
  const auto ops = *MakeCpuBackend({.threads = 1});
  TurnSampler sampler(ops.get());
  EXPECT_TRUE(sampler.Draw(MatrixView<const float>{}, {}).empty());
}

}  // namespace
}  // namespace tailor
