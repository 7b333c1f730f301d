// What the engine refuses, and how sequences and turns give way and end.
#include <gmock/gmock.h>

#include <array>
#include <cstdio>

#include "tests/worker/engine_fixture.h"

namespace tailor {
namespace {

using ::testing::HasSubstr;

TEST_F(EngineTest, BadRequestsAreRefusedWithThingValueAndLimit) {
  auto engine = MakeEngine();
  const auto message = [&](TurnRequest request) {
    return std::string(Run(*engine, std::move(request)).result.status().message());
  };
  EXPECT_THAT(message(Request("s", {}, 1)), HasSubstr("0 tokens"));
  EXPECT_THAT(message(Request("s", {16, 272}, 1)), HasSubstr("token 1 is 272, limit 0..271"));
  EXPECT_THAT(message(Request("s", RandomIds(8000, 1), 193)),
              HasSubstr("8000 tokens and max_new_tokens is 193, the context holds 8192"));
  TurnRequest hot = Request("s", {16}, 1);
  hot.sampling.temperature = -1;
  EXPECT_THAT(message(hot), HasSubstr("temperature is -1"));
}

TEST_F(EngineTest, ATurnThatDoesNotFitWorkerMemoryIsRefusedAtOnce) {
  auto engine = MakeEngine({.worker_memory_bytes = 2 << 20});
  const Outcome full =
      Run(*engine, Request("f", RandomIds(3000, 21), 10, AttentionMode::kFull));
  EXPECT_EQ(full.result.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Run(*engine, Request("h", RandomIds(1000, 21), 4)).result.ok());
}

// N, M and L of "turn needs N bytes of device memory, M of L are not taken by running turns".
std::array<int64_t, 3> BytesOf(const absl::Status& refused) {
  std::array<int64_t, 3> bytes = {};
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted) << refused;
  EXPECT_EQ(std::sscanf(std::string(refused.message()).c_str(),
                        "turn needs %ld bytes of device memory, %ld of %ld are not taken",
                        &bytes[0], &bytes[1], &bytes[2]),
            3)
      << refused;
  return bytes;
}

TEST_F(EngineTest, ATurnThatDeviceMemoryHoldsToTheByteRunsAndWithOneLessIsRefusedAtOnce) {
  const auto prompt = RandomIds(900, 50), question = RandomIds(200, 51);
  for (const AttentionMode mode : {AttentionMode::kHybrid, AttentionMode::kFull}) {
    store_ = MakeStore(int64_t{96} << 20);
    auto unlimited = MakeEngine({.check_every_tokens = 0});
    const Outcome first = Run(*unlimited, Request("s", prompt, 20, mode));
    const auto history = Concat(Concat(prompt, first.tokens), question);
    const Outcome want = Run(*unlimited, Request("s", history, 20, mode));
    // A budget that holds the model and no such turn tells what either takes.
    constexpr int64_t kSmall = int64_t{6} << 20;
    Variant setup = {.check_every_tokens = 0, .far_host_memory = true};
    setup.device_memory_bytes = kSmall;
    const auto [needed, free_bytes, left] = BytesOf(
        Run(*MakeEngine(setup), Request("s", RandomIds(8000, 52), 20, mode)).result.status());
    EXPECT_EQ(free_bytes, left) << "nothing runs";
    EXPECT_GT(needed, left);
    setup.device_memory_bytes = kSmall - left + 1;  // of the model alone, and one
    const int64_t turn =
        BytesOf(Run(*MakeEngine(setup), Request("s", history, 20, mode)).result.status())[0];
    for (const int64_t spare : {0, -1}) {
      SCOPED_TRACE(absl::StrCat(spare, " to spare, mode ", static_cast<int>(mode)));
      store_ = MakeStore(int64_t{96} << 20);
      setup.device_memory_bytes = kSmall - left + turn + spare;
      auto engine = MakeEngine(setup);
      EXPECT_EQ(Run(*engine, Request("s", prompt, 20, mode)).tokens, first.tokens);
      const Outcome got = Run(*engine, Request("s", history, 20, mode));
      if (spare < 0) {
        EXPECT_EQ(BytesOf(got.result.status())[0], turn);
      } else {
        ASSERT_TRUE(got.result.ok()) << got.result.status();
        EXPECT_EQ(got.tokens, want.tokens);
        EXPECT_EQ(got.logprobs, want.logprobs);
        EXPECT_EQ(got.result->report.reused_tokens, 919);
      }
    }
  }
}

TEST_F(EngineTest, IdleSequencesGiveWayToAPrefillThatNeedsTheirDeviceMemory) {
  Variant setup = {.check_every_tokens = 0, .far_host_memory = true};
  setup.device_memory_bytes = int64_t{12} << 20;
  auto engine = MakeEngine(setup);
  for (int i = 0; i < 6; ++i) {
    const Outcome out =
        Run(*engine, Request(std::to_string(i), RandomIds(1500, 60 + i), 3, AttentionMode::kFull));
    ASSERT_TRUE(out.result.ok()) << i << ": " << out.result.status();
  }
  EXPECT_LT(engine->stats().sequences_live, 6);
}

TEST_F(EngineTest, AModelThatLeavesNoDeviceMemoryForTurnsIsRefused) {
  auto model = ModelFile::Open(*scratch_ / "tiny.gguf");
  const LayerPolicy policy =
      LayerPolicy::Default("tiny", (*model)->fingerprint(), (*model)->hyperparameters());
  for (int64_t bytes = 64 << 10;; bytes += 64 << 10) {
    model = ModelFile::Open(*scratch_ / "tiny.gguf");
    const auto engine = Engine::Create({}, *std::move(model), policy,
                                       *MakeCpuBackend({.threads = 1, .memory_limit_bytes = bytes}),
                                       std::make_unique<LocalKvClient>(store_));
    if (engine.ok()) break;  // of any size: a refusal, never a crash
    EXPECT_EQ(engine.status().code(), absl::StatusCode::kResourceExhausted);
    ASSERT_LT(bytes, int64_t{64} << 20);
  }
}

TEST_F(EngineTest, IdleSequencesGiveWayAndComeBack) {
  auto engine = MakeEngine({.max_sequences = 2});
  std::vector<std::vector<TokenId>> histories;
  for (int i = 0; i < 4; ++i) {
    const auto prompt = RandomIds(200, 30 + i);
    const Outcome out = Run(*engine, Request(std::to_string(i), prompt, 3));
    ASSERT_TRUE(out.result.ok()) << out.result.status();
    histories.push_back(Concat(Concat(prompt, out.tokens), {20, 21}));
    EXPECT_LE(engine->stats().sequences_live, 2);
  }
  const Outcome back = Run(*engine, Request("0", histories[0], 2));
  EXPECT_EQ(back.result->report.reused_tokens, 202);
}

TEST_F(EngineTest, AStoreWithoutRoomRefusesTheTurnAndKeepsServing) {
  store_ = MakeStore(int64_t{4} << 20);
  auto engine = MakeEngine();
  const Outcome big = Run(*engine, Request("big", RandomIds(3500, 40), 2));
  EXPECT_EQ(big.result.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Run(*engine, Request("small", RandomIds(100, 41), 2)).result.ok());
}

TEST_F(EngineTest, RemoveFreesEveryPage) {
  auto engine = MakeEngine();
  ASSERT_TRUE(Run(*engine, Request("s", RandomIds(500, 42), 3)).result.ok());
  EXPECT_LT(engine->stats().store.pages_free, engine->stats().store.pages_total);
  ASSERT_TRUE(engine->Remove({"t", "s"}).ok());
  EXPECT_EQ(engine->stats().store.pages_free, engine->stats().store.pages_total);
  EXPECT_TRUE(engine->Remove({"t", "never there"}).ok());
}

TEST_F(EngineTest, ASecondTurnOfABusySequenceIsRefused) {
  auto engine = MakeEngine();
  auto sink = std::make_shared<CollectingSink>();
  const auto first = engine->Submit(Request("s", RandomIds(100, 43), 2000), sink);
  ASSERT_TRUE(first.ok());
  const Outcome second = Run(*engine, Request("s", RandomIds(100, 43), 1));
  EXPECT_EQ(second.result.status().code(), absl::StatusCode::kFailedPrecondition);
  engine->Cancel(*first);
  sink->Wait();
}

TEST_F(EngineTest, StoppingTheEngineEndsEveryTurn) {
  auto engine = MakeEngine();
  auto sink = std::make_shared<CollectingSink>();
  ASSERT_TRUE(engine->Submit(Request("s", RandomIds(100, 44), 3000), sink).ok());
  engine.reset();
  EXPECT_EQ(sink->Wait().result.status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace tailor
