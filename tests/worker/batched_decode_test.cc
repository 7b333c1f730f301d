// Turns that decode together: each has the tokens, bit for bit, that it has alone in an engine, in
// every size of batch and over every way to the store, whoever joins, leaves, is cancelled or
// fails.
#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "tests/support/tiny_model.h"
#include "tests/worker/batch_rig.h"

namespace tailor {
namespace {

const char* Name(Way way) {
  constexpr const char* kNames[] = {"inline", "local store", "served store", "doorbell"};
  return kNames[static_cast<int>(way)];
}
const char* Name(QueryMode query) { return query == QueryMode::kExact ? "exact" : "predicted"; }

// Lengths, modes and sampling of all kinds. From 312 tokens on (two pages and the window) a hybrid
// one fetches from its first step; 250 begins to while it decodes.
std::vector<Conversation> MixedConversations(int count) {
  constexpr int kLengths[] = {330, 3, 400, 470, 250, 1, 520, 128};
  std::vector<Conversation> all;
  for (int i = 0; i < count; ++i) {
    Conversation c = {.name = absl::StrCat("c", i),
                      .prompt = BytesAsIds(kLengths[i % 8] + i, 100 + i)};
    c.first_tokens = 75 + 10 * (i % 4);  // all begin before the first ends: a prefill has 4 units
    if (i % 3 != 2) c.question = BytesAsIds(5, 200 + i);
    if (i % 4 == 3) c.mode = AttentionMode::kFull;
    if (i % 2 == 1) {
      c.sampling = {.temperature = 1.0f,
                    .top_k = 40,
                    .repetition_penalty = 1.2f,
                    .seed = static_cast<uint64_t>(i)};
    }
    all.push_back(std::move(c));
  }
  return all;
}

class BatchedDecodeTest : public ::testing::Test {
 protected:
  BatchedDecodeTest() { WriteTinyModel(scratch_ / "tiny.gguf", {.embedding_scale = 0.1f}); }

  // Checks and grown budgets included.
  std::unique_ptr<BatchRig> MakeRig(const BatchSetup& setup) const {
    return std::make_unique<BatchRig>(
        scratch_ / "tiny.gguf", setup,
        [](LayerPolicy& policy) {
          policy.select.top_k = 32;
          policy.check_every_tokens = 8;
          policy.mass_floor = 0.3f;
        },
        int64_t{48} << 20);
  }
  std::vector<std::vector<Seen>> Alone(const std::vector<Conversation>& all,
                                       QueryMode query) const {
    const auto rig = MakeRig({.query = query});
    std::vector<std::vector<Seen>> seen;
    for (const Conversation& c : all) seen.push_back(Converse(*rig->engine, c));
    return seen;
  }
  static void ExpectAllSame(const std::vector<std::vector<Seen>>& got,
                            const std::vector<std::vector<Seen>>& want, size_t from = 0) {
    for (size_t i = from; i < got.size(); ++i) {
      ASSERT_EQ(got[i].size(), want[i].size()) << "conversation " << i;
      for (size_t turn = 0; turn < want[i].size(); ++turn) {
        ExpectSame(got[i][turn], want[i][turn], absl::StrCat("conversation ", i, " turn ", turn));
      }
    }
  }

  const ScratchDir scratch_;
};

TEST_F(BatchedDecodeTest, TurnsHaveTheTokensTheyHaveAloneInEverySizeOfBatch) {
  for (const QueryMode query : {QueryMode::kExact, QueryMode::kPredicted}) {
    const std::vector<Conversation> all = MixedConversations(17);
    const auto want = Alone(all, query);
    for (const Way way : {Way::kInline, Way::kLocalStore, Way::kServedStore, Way::kDoorbell}) {
      for (const int count : {1, 2, 5, 17}) {
        const bool exact = query == QueryMode::kExact, shared = way != Way::kLocalStore;
        if (count == 1 ? !exact : count == 17 && (exact ? !shared : way != Way::kDoorbell))
          continue;
        SCOPED_TRACE(absl::StrCat(Name(way), ", ", Name(query), ", ", count));
        const auto rig = MakeRig({.way = way, .query = query, .threads = 2});
        const auto got = ConverseTogether(*rig->engine, {all.begin(), all.begin() + count});
        ExpectAllSame(got, want);
        const EngineStats stats = rig->engine->stats();
        if (count == 17) {
          EXPECT_GT(stats.decode_rows, 6 * stats.decode_steps);
        }
      }
    }
  }
}

TEST_F(BatchedDecodeTest, AStepTakesAllTurnsThatDecodeUpToTheLimit) {
  std::vector<Conversation> all = MixedConversations(6);
  for (Conversation& c : all) {
    c.first_tokens = 60;
    c.question = {};
  }
  const auto want = Alone(all, QueryMode::kExact);
  for (const int limit : {1, 4, 16}) {
    const auto rig = MakeRig({.max_decode_rows = limit});
    ExpectAllSame(ConverseTogether(*rig->engine, all), want);
    const EngineStats stats = rig->engine->stats();
    EXPECT_EQ(stats.decode_rows, 6 * 59) << "each turn's first token comes from its prefill";
    // A prefill has 4 units or, of more than 512 tokens, 8, and a step comes after each: the first
    // turn makes 28 at most before the last begins.
    EXPECT_GE(stats.decode_steps * limit, stats.decode_rows);
    EXPECT_LE(stats.decode_steps, limit == 1 ? 6 * 59 : limit == 4 ? 2 * (59 + 28) : 59 + 28);
  }
}

TEST_F(BatchedDecodeTest, ACancelledTurnLeavesTheBatchAndTheOthersAsTheyWere) {
  std::vector<Conversation> all = MixedConversations(6);
  const auto want = Alone(all, QueryMode::kPredicted);
  all[0].first_tokens = 3000;  // until it is cancelled
  all[0].cancel_after = 7;
  all[0].question = {};
  const auto alone = Alone({all[0]}, QueryMode::kPredicted);
  for (const Way way : {Way::kInline, Way::kDoorbell}) {
    const auto rig = MakeRig({.way = way, .query = QueryMode::kPredicted});
    const auto got = ConverseTogether(*rig->engine, all);
    EXPECT_EQ(got[0][0].reason, FinishReason::kCancelled) << Name(way);
    ExpectSame(got[0][0], alone[0][0], Name(way));
    ExpectAllSame(got, want, 1);
  }
}

// Changes every row of the prompt's first page where the engine's client sees it. Engine thread.
void DamageRows(const BatchRig& rig, const std::vector<TokenId>& prompt) {
  const PoolView pool = *rig.client->OpenPool(rig.spec);
  for (int64_t p = 0; p < pool.layout().pages(); ++p) {
    const PageId page{static_cast<uint32_t>(p)};
    if (!std::equal(prompt.begin(), prompt.begin() + kPageTokens, pool.Tokens(page))) continue;
    for (int32_t layer = 1; layer < pool.shape().layers; ++layer) {  // layer 0 is quantized
      for (int t = 0; t < kPageTokens; ++t) {
        pool.Rows(layer, 0, page)[t * 2 * pool.shape().head_dim].bits ^= 1;
      }
    }
  }
}

TEST_F(BatchedDecodeTest, ATurnWhoseRowsFailTheirCheckFailsAloneAndTheStoreServesOn) {
  std::vector<Conversation> all = MixedConversations(7);
  for (const QueryMode query : {QueryMode::kExact, QueryMode::kPredicted}) {
    auto want = Alone(all, query);
    const Conversation late = {.name = "late", .prompt = BytesAsIds(420, 77)};
    const auto want_late = Alone({late}, query);
    for (const Way way : {Way::kInline, Way::kLocalStore, Way::kServedStore, Way::kDoorbell}) {
      SCOPED_TRACE(absl::StrCat(Name(way), ", ", Name(query)));
      const auto rig = MakeRig({.way = way, .query = query});
      std::vector<Conversation> struck = all;
      struck[2].first_tokens = 200;  // longer than what it gets to see
      struck[2].on_token = [&](size_t tokens) {
        if (tokens == 4) DamageRows(*rig, struck[2].prompt);
      };
      const auto got = ConverseTogether(*rig->engine, struck);
      EXPECT_EQ(got[2][0].status.code(), absl::StatusCode::kDataLoss) << got[2][0].status;
      EXPECT_EQ(got[2][0].tokens.size(), 4u);
      for (size_t i = 0; i < got.size(); ++i) {
        if (i != 2) ExpectAllSame({got[i]}, {want[i]});
      }
      // Nothing of the failed turn is left in the way of those that come.
      ExpectAllSame(ConverseTogether(*rig->engine, {late, struck[1]}), {want_late[0], want[1]}, 0);
    }
  }
}

TEST_F(BatchedDecodeTest, MoreThanSixteenRowsAreRefused) {
  auto model = *ModelFile::Open(scratch_ / "tiny.gguf");
  const LayerPolicy policy =
      LayerPolicy::Default("tiny", model->fingerprint(), model->hyperparameters());
  const auto engine = Engine::Create({.max_decode_rows = 17}, std::move(model), policy,
                                     *MakeCpuBackend({}), *MakeLocalStore(int64_t{16} << 20));
  EXPECT_EQ(engine.status().message(), "max_decode_rows is 17, limit 1..16");
}

TEST(BatchedDecodeModelTest, TheDefaultModelsTurnsHaveTheTokensTheyHaveAlone) {
  const char* const path = std::getenv("TAILOR_TEST_MODEL");
  if (path == nullptr) GTEST_SKIP() << "TAILOR_TEST_MODEL names no model file";
  std::vector<Conversation> all;
  for (int i = 0; i < 5; ++i) {
    Conversation c = {.name = std::to_string(i), .prompt = BytesAsIds(80 + 80 * i, i)};
    c.first_tokens = 16 - 2 * i;
    if (i == 1) c.mode = AttentionMode::kFull;
    if (i % 2 == 0) c.sampling = {.temperature = 0.8f, .top_p = 0.9f, .seed = 5};
    all.push_back(std::move(c));
  }
  const auto no_change = [](LayerPolicy&) {};
  const int64_t arena = int64_t{128} << 20;
  for (const QueryMode query : {QueryMode::kExact, QueryMode::kPredicted}) {
    std::vector<std::vector<Seen>> want;
    BatchRig alone(path, {.query = query, .threads = 2}, no_change, arena);
    for (const Conversation& c : all) want.push_back(Converse(*alone.engine, c));
    BatchRig together(path, {.way = Way::kDoorbell, .query = query, .threads = 2}, no_change,
                      arena);
    const auto got = ConverseTogether(*together.engine, all);
    for (size_t i = 0; i < all.size(); ++i) {
      ExpectSame(got[i][0], want[i][0], absl::StrCat(Name(query), " ", i));
    }
  }
}

}  // namespace
}  // namespace tailor
