// What must hold of the engine whatever the weights are.
#include <gmock/gmock.h>

#include "absl/strings/str_cat.h"
#include "tests/worker/engine_fixture.h"

namespace tailor {
namespace {

TEST_F(EngineTest, TokensDoNotDependOnThreadsChunkOrSelector) {
  const auto prompt = RandomIds(700, 1);
  const Outcome want = Run(*MakeEngine(), Request("base", prompt, 40));
  ASSERT_TRUE(want.result.ok()) << want.result.status();
  const std::vector<Variant> setups = {{.threads = 2},
                                       {.threads = 3, .chunk = 17},
                                       {.chunk = 700},
                                       {.selector = Selector::kStore},
                                       {.chunk = 96, .far_host_memory = true}};
  for (size_t i = 0; i < setups.size(); ++i) {
    store_ = MakeStore(int64_t{96} << 20);
    const Outcome got = Run(*MakeEngine(setups[i]), Request("base", prompt, 40));
    EXPECT_EQ(got.tokens, want.tokens) << "setup " << i;
    EXPECT_EQ(got.logprobs, want.logprobs) << "setup " << i;
  }
}

TEST_F(EngineTest, FullDecodeEqualsPrefillBitForBit) {
  auto engine = MakeEngine();
  const auto prompt = RandomIds(300, 2);
  const Outcome decoded = Run(*engine, Request("a", prompt, 20, AttentionMode::kFull));
  ASSERT_EQ(decoded.tokens.size(), 20u);
  for (int kept : {1, 7, 19}) {
    const auto history =
        Concat(prompt, {decoded.tokens.begin(), decoded.tokens.begin() + kept});
    const Outcome again =
        Run(*engine, Request(absl::StrCat("b", kept), history, 1, AttentionMode::kFull));
    EXPECT_EQ(again.tokens[0], decoded.tokens[kept]);
    EXPECT_EQ(again.logprobs[0], decoded.logprobs[kept]);
  }
}

TEST_F(EngineTest, FetchingEveryCandidateIsExactAttention) {
  // One layer is quantized: 8 bits keep it near; the other three must be exact.
  auto engine = MakeEngine({.top_k = 4096, .bits = 8});
  const auto prompt = RandomIds(600, 3);
  const Outcome hybrid = Run(*engine, Request("h", prompt, 2));
  const Outcome full = Run(*engine, Request("f", prompt, 2, AttentionMode::kFull));
  EXPECT_EQ(hybrid.logprobs[0], full.logprobs[0]) << "the first token comes from exact prefill";
  EXPECT_NEAR(hybrid.logprobs[1], full.logprobs[1], 0.05);
  EXPECT_GT(hybrid.result->report.rows_fetched, 0);
  EXPECT_EQ(full.result->report.rows_fetched, 0);
}

TEST_F(EngineTest, AShortContextIsExact) {
  auto engine = MakeEngine();
  for (const int length : {1, 2, 100}) {
    const auto prompt = RandomIds(length, 4);
    const std::string name = std::to_string(length);
    const Outcome hybrid = Run(*engine, Request("h" + name, prompt, 12));
    const Outcome full = Run(*engine, Request("f" + name, prompt, 12, AttentionMode::kFull));
    EXPECT_EQ(hybrid.tokens, full.tokens) << length;
    EXPECT_EQ(hybrid.logprobs, full.logprobs) << length;
  }
}

TEST_F(EngineTest, TheNextTurnPrefillsOnlyNewTokens) {
  auto engine = MakeEngine();
  const auto prompt = RandomIds(500, 5);
  const Outcome first = Run(*engine, Request("s", prompt, 30));
  const auto history = Concat(Concat(prompt, first.tokens), RandomIds(11, 6));
  const Outcome second = Run(*engine, Request("s", history, 5));
  ASSERT_TRUE(second.result.ok()) << second.result.status();
  EXPECT_EQ(second.result->report.reused_tokens, 529);
  EXPECT_EQ(second.result->report.prefilled_tokens, 12);  // the last generated one, and 11 new
  EXPECT_EQ(second.result->report.generated_tokens, 5);
}

TEST_F(EngineTest, AForkContinuesExactlyLikeItsParentAndLeavesItAlone) {
  auto engine = MakeEngine();
  const auto prompt = RandomIds(450, 7);
  const Outcome first = Run(*engine, Request("parent", prompt, 50));
  ASSERT_TRUE(engine->Fork({"t", "parent"}, {"t", "child"}).ok());
  const auto shared = Concat(Concat(prompt, first.tokens), RandomIds(5, 8));
  const auto other = Concat(Concat(prompt, first.tokens), RandomIds(9, 9));
  const Outcome diverged = Run(*engine, Request("child", other, 20));
  EXPECT_EQ(diverged.result->report.reused_tokens, 499);
  ASSERT_TRUE(engine->Fork({"t", "parent"}, {"t", "twin"}).ok());
  const Outcome parent = Run(*engine, Request("parent", shared, 20));
  const Outcome twin = Run(*engine, Request("twin", shared, 20));
  EXPECT_EQ(parent.result->report.reused_tokens, 499);
  EXPECT_EQ(twin.tokens, parent.tokens);
  EXPECT_EQ(twin.logprobs, parent.logprobs);
}

TEST_F(EngineTest, AReattachedSequenceContinuesExactlyLikeOneThatNeverLeft) {
  const auto prompt = RandomIds(450, 10);
  const auto added = RandomIds(5, 11);
  auto stayed = MakeEngine();
  const Outcome first = Run(*stayed, Request("s", prompt, 200));
  const auto history = Concat(Concat(prompt, first.tokens), added);
  const Outcome want = Run(*stayed, Request("s", history, 150));

  store_ = MakeStore(int64_t{96} << 20);
  auto left = MakeEngine();
  ASSERT_EQ(Run(*left, Request("s", prompt, 200)).tokens, first.tokens);
  left.reset();  // detaches
  auto back = MakeEngine();
  const Outcome got = Run(*back, Request("s", history, 150));
  EXPECT_EQ(got.result->report.reused_tokens, want.result->report.reused_tokens);
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_EQ(got.logprobs, want.logprobs);
}

// The worker dies after some tokens of an answer; another one goes on, over the same store or over an
// empty one.
TEST_F(EngineTest, AResumedTurnGoesOnBitForBitLikeOneThatNeverBrokeOff) {
  const auto prompt = RandomIds(600, 5);
  SamplingParams sampling;  // draws and counts must survive as well
  sampling.temperature = 1.0f;
  sampling.seed = 3;
  sampling.repetition_penalty = 1.3f;
  sampling.presence_penalty = 0.5f;
  sampling.frequency_penalty = 0.5f;
  TurnRequest unbroken = Request("whole", prompt, 60);
  unbroken.sampling = sampling;
  const Outcome whole = Run(*MakeEngine(), unbroken);
  ASSERT_EQ(whole.tokens.size(), 60u);
  // At 40 the store has sealed a page that the resumed history does not yet leave behind.
  for (const int seen : {0, 1, 7, 40}) {
    const std::vector<TokenId> answer(whole.tokens.begin(), whole.tokens.begin() + seen);
    for (const Selector selector : {Selector::kInline, Selector::kStore}) {
      for (const bool store_died : {false, true}) {
        SCOPED_TRACE(absl::StrCat(seen, " seen, selector ", static_cast<int>(selector),
                                  store_died ? ", store died" : ""));
        store_ = MakeStore(int64_t{96} << 20);
        TurnRequest struck = Request("struck", prompt, seen + 1);
        struck.sampling = sampling;
        (void)Run(*MakeEngine(), struck);
        if (store_died) store_ = MakeStore(int64_t{96} << 20);
        TurnRequest rest = Request("struck", Concat(prompt, answer), 60 - seen);
        rest.sampling = sampling;
        rest.resumed_tokens = seen;
        const Outcome resumed = Run(*MakeEngine({.selector = selector}), rest);
        ASSERT_TRUE(resumed.result.ok()) << resumed.result.status();
        EXPECT_EQ(Concat(answer, resumed.tokens), whole.tokens);
        EXPECT_THAT(resumed.logprobs,
                    ::testing::ElementsAreArray(whole.logprobs.begin() + seen,
                                                whole.logprobs.end()));
      }
    }
  }
}

// The dead worker had committed more than anybody saw, behind an earlier answer in open pages: those
// decoded rows must stay as they were made.
TEST_F(EngineTest, AResumedSecondTurnKeepsTheDecodedRowsOfTheFirst) {
  const auto prompt = RandomIds(600, 11), question = RandomIds(9, 12);
  const auto engine = MakeEngine({.top_k = 8});
  const Outcome first = Run(*engine, Request("whole", prompt, 30));
  ASSERT_TRUE(engine->Fork({"t", "whole"}, {"t", "struck"}).ok());
  const auto history = Concat(Concat(prompt, first.tokens), question);
  const Outcome whole = Run(*engine, Request("whole", history, 20));
  (void)Run(*engine, Request("struck", history, 12));
  TurnRequest rest =
      Request("struck", Concat(history, {whole.tokens.begin(), whole.tokens.begin() + 7}), 13);
  rest.resumed_tokens = 7;
  const Outcome resumed = Run(*engine, rest);
  ASSERT_TRUE(resumed.result.ok()) << resumed.result.status();
  EXPECT_THAT(resumed.logprobs, ::testing::ElementsAreArray(whole.logprobs.begin() + 7,
                                                            whole.logprobs.end()));
}

TEST_F(EngineTest, ChecksAloneChangeNoTokenAndReportWhatWasSeen) {
  const auto prompt = RandomIds(700, 6);
  const Outcome unchecked =
      Run(*MakeEngine({.top_k = 8, .check_every_tokens = 0}), Request("u", prompt, 30));
  const Outcome checked =
      Run(*MakeEngine({.top_k = 8, .check_every_tokens = 4}), Request("c", prompt, 30));
  ASSERT_TRUE(checked.result.ok()) << checked.result.status();
  EXPECT_EQ(checked.tokens, unchecked.tokens);
  EXPECT_EQ(checked.logprobs, unchecked.logprobs);
  EXPECT_EQ(unchecked.result->report.checked_heads, 0);
  const TurnReport& report = checked.result->report;
  // 29 steps from position 700 on, of which eight are multiples of four; 700 is the first.
  EXPECT_EQ(report.checked_heads % 8, 0);
  EXPECT_GT(report.checked_heads, 0);
  EXPECT_GT(report.captured_mass_mean, 0.0);
  EXPECT_LT(report.captured_mass_mean, 1.0);
  EXPECT_LE(report.captured_mass_worst, report.captured_mass_mean);
  EXPECT_GT(report.output_error_mean, 0.0);
  EXPECT_EQ(report.budget_rows, 8);
}

TEST_F(EngineTest, FetchingAllSeesAllOfTheAttention) {
  for (const Selector selector : {Selector::kInline, Selector::kStore}) {
    store_ = MakeStore(int64_t{96} << 20);
    const Outcome all = Run(*MakeEngine({.selector = selector, .top_k = 4096}),
                            Request("a", RandomIds(700, 7), 4));
    ASSERT_TRUE(all.result.ok()) << all.result.status();
    EXPECT_GT(all.result->report.checked_heads, 0);
    EXPECT_NEAR(all.result->report.captured_mass_worst, 1.0, 1e-5);
    EXPECT_NEAR(all.result->report.output_error_mean, 0.0, 1e-5);
  }
}

TEST_F(EngineTest, BelowTheFloorTheBudgetDoublesAndIsKeptForTheNextTurn) {
  const auto prompt = RandomIds(700, 8);
  // A random model attends flatly: no budget short of all of it reaches such a floor.
  const Variant strict = {.top_k = 8, .check_every_tokens = 2, .mass_floor = 0.9999f};
  const Outcome grown = Run(*MakeEngine(strict), Request("g", prompt, 60));
  ASSERT_TRUE(grown.result.ok()) << grown.result.status();
  EXPECT_EQ(grown.result->report.budget_rows, 512) << "the first budget above the 504 candidates";
  // The next turn, of a new worker, starts from that budget.
  const auto history = Concat(prompt, grown.tokens);
  const Outcome next = Run(*MakeEngine(strict), Request("g", history, 4));
  ASSERT_TRUE(next.result.ok()) << next.result.status();
  EXPECT_EQ(next.result->report.budget_rows, 512);
  EXPECT_NEAR(next.result->report.captured_mass_worst, 1.0, 1e-5);
}

TEST_F(EngineTest, BeyondTheLargestBudgetAttentionIsExactLikeTheFullCaches) {
  const Variant strict = {.top_k = 4096, .check_every_tokens = 1, .mass_floor = 0.9999999f,
                          .quantizes = false};
  const auto engine = MakeEngine(strict);
  const auto prompt = RandomIds(7000, 10);  // far more candidates than the largest budget
  const Outcome grown = Run(*engine, Request("g", prompt, 4));
  ASSERT_TRUE(grown.result.ok()) << grown.result.status();
  EXPECT_EQ(grown.result->report.budget_rows, 0);
  for (const char* name : {"hybrid", "full"}) {
    ASSERT_TRUE(engine->Fork({"t", "g"}, {"t", name}).ok());
  }
  const auto history = Concat(prompt, Concat(grown.tokens, {17, 18}));
  const Outcome hybrid = Run(*engine, Request("hybrid", history, 6));
  const Outcome full = Run(*engine, Request("full", history, 6, AttentionMode::kFull));
  ASSERT_TRUE(hybrid.result.ok() && full.result.ok());
  EXPECT_EQ(hybrid.logprobs, full.logprobs);
}

TEST_F(EngineTest, AGrownBudgetSurvivesTheWorkersDeathBitForBit) {
  const auto prompt = RandomIds(600, 9);
  const Variant strict = {.top_k = 8, .check_every_tokens = 8, .mass_floor = 0.95f};
  const Outcome whole = Run(*MakeEngine(strict), Request("whole", prompt, 60));
  ASSERT_EQ(whole.tokens.size(), 60u);
  EXPECT_GT(whole.result->report.budget_rows, 8);
  for (const int seen : {1, 8, 9, 17, 40}) {
    SCOPED_TRACE(seen);
    store_ = MakeStore(int64_t{96} << 20);
    (void)Run(*MakeEngine(strict), Request("struck", prompt, seen + 1));
    TurnRequest rest = Request(
        "struck", Concat(prompt, {whole.tokens.begin(), whole.tokens.begin() + seen}), 60 - seen);
    rest.resumed_tokens = seen;
    const Outcome resumed = Run(*MakeEngine(strict), rest);
    ASSERT_TRUE(resumed.result.ok()) << resumed.result.status();
    EXPECT_THAT(resumed.logprobs, ::testing::ElementsAreArray(whole.logprobs.begin() + seen,
                                                              whole.logprobs.end()));
    EXPECT_EQ(resumed.result->report.budget_rows, whole.result->report.budget_rows);
  }
}

TEST_F(EngineTest, ANewSequenceSharesTheSealedPrefixOfItsTenantOnly) {
  auto engine = MakeEngine();
  const auto document = RandomIds(600, 12);
  const Outcome first = Run(*engine, Request("one", document, 2));
  TurnRequest same = Request("two", document, 2);
  const Outcome shared = Run(*engine, same);
  EXPECT_EQ(shared.result->report.reused_tokens, 384);  // pages older than the window
  EXPECT_EQ(shared.tokens, first.tokens);
  EXPECT_EQ(shared.logprobs, first.logprobs);
  same.sequence = {.tenant = "other", .name = "two"};
  EXPECT_EQ(Run(*engine, same).result->report.reused_tokens, 0);
}

TEST_F(EngineTest, GeneratedTokensFoldIntoSealedPages) {
  auto engine = MakeEngine();
  const Outcome out = Run(*engine, Request("long", RandomIds(3, 13), 900));
  ASSERT_EQ(out.tokens.size(), 900u);
  const TierBytes& bytes = out.result->report.bytes;
  EXPECT_GT(bytes.quantized_codes, 0);
  // Two window pages a layer, the sinks, and a block of mean rows for every 32 pages.
  EXPECT_LE(bytes.resident, 4 * (2 * 2 * 128 * 256 + 2 * 8 * 256 + 2 * 32 * 256));
  EXPECT_GE(engine->stats().store.pages_sealed, 5);
}

TEST_F(EngineTest, TwoSequencesAtOnceGiveWhatEachGivesAlone) {
  auto alone = MakeEngine();
  const auto a = RandomIds(300, 14), b = RandomIds(500, 15);
  const Outcome want_a = Run(*alone, Request("a", a, 60));
  const Outcome want_b = Run(*alone, Request("b", b, 60));
  store_ = MakeStore(int64_t{96} << 20);
  auto engine = MakeEngine();
  auto sink_a = std::make_shared<CollectingSink>(), sink_b = std::make_shared<CollectingSink>();
  ASSERT_TRUE(engine->Submit(Request("a", a, 60), sink_a).ok());
  ASSERT_TRUE(engine->Submit(Request("b", b, 60), sink_b).ok());
  EXPECT_EQ(sink_a->Wait().tokens, want_a.tokens);
  EXPECT_EQ(sink_b->Wait().tokens, want_b.tokens);
}

TEST_F(EngineTest, PredictedQueriesRunWithEitherSelectorAndAgree) {
  const auto prompt = RandomIds(700, 16);
  const Outcome first = Run(*MakeEngine({.query = QueryMode::kPredicted}), Request("s", prompt, 30));
  ASSERT_TRUE(first.result.ok()) << first.result.status();
  EXPECT_GT(first.result->report.rows_fetched, 0);
  store_ = MakeStore(int64_t{96} << 20);
  const Outcome second =
      Run(*MakeEngine({.selector = Selector::kStore, .query = QueryMode::kPredicted}),
          Request("s", prompt, 30));
  EXPECT_EQ(second.tokens, first.tokens);
  EXPECT_EQ(second.logprobs, first.logprobs);
}

TEST_F(EngineTest, GenerationStopsAfterAStopToken) {
  auto engine = MakeEngine();
  const auto prompt = RandomIds(40, 17);
  const Outcome free = Run(*engine, Request("a", prompt, 10));
  TurnRequest stopped = Request("b", prompt, 10);
  stopped.stop_tokens = {free.tokens[4]};
  const Outcome out = Run(*engine, stopped);
  EXPECT_EQ(out.tokens.back(), free.tokens[4]);
  EXPECT_LE(out.tokens.size(), 5u);
  EXPECT_EQ(out.result->reason, FinishReason::kStopToken);
}

TEST_F(EngineTest, ACancelledTurnKeepsItsTokensAndTheSequenceGoesOn) {
  auto engine = MakeEngine();
  const auto prompt = RandomIds(200, 18);
  auto sink = std::make_shared<CollectingSink>();
  std::promise<TurnId> id;
  auto known = id.get_future().share();
  sink->on_token = [&](size_t count) {
    if (count == 5) engine->Cancel(known.get());
  };
  id.set_value(*engine->Submit(Request("s", prompt, 3000), sink));
  const Outcome out = sink->Wait();
  EXPECT_EQ(out.result->reason, FinishReason::kCancelled);
  ASSERT_EQ(out.tokens.size(), 5u);
  const auto history = Concat(Concat(prompt, out.tokens), RandomIds(3, 19));
  const Outcome next = Run(*engine, Request("s", history, 4));
  ASSERT_TRUE(next.result.ok()) << next.result.status();
  EXPECT_EQ(next.result->report.reused_tokens, 204);
}

TEST_F(EngineTest, AnEditedHistoryIsCutBackToThePageBeforeTheEdit) {
  auto engine = MakeEngine();
  auto history = RandomIds(600, 20);
  ASSERT_TRUE(Run(*engine, Request("s", history, 2)).result.ok());
  history[300] ^= 1;
  const Outcome edited = Run(*engine, Request("s", history, 6));
  EXPECT_EQ(edited.result->report.reused_tokens, 256);
  const Outcome fresh = Run(*engine, Request("fresh", history, 6));
  EXPECT_EQ(edited.tokens, fresh.tokens);
}

}  // namespace
}  // namespace tailor
