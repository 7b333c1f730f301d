// Prefill with one layer's rows on the device against prefill in the store's pages: the CPU backend
// as if the host's memory were far, with every copy aside put off until it must have been, so that
// a wait too few shows. What must come out is the same to the bit.
#include "worker/model/prefill.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tests/support/tiny_model.h"
#include "worker/quality/measured_model.h"

namespace tailor {
namespace {

constexpr int64_t kAll = std::numeric_limits<int64_t>::max();
constexpr int64_t kTokens = 900;

std::vector<TokenId> Ids(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<TokenId> ids(count);
  for (TokenId& id : ids) id = static_cast<TokenId>(random() % kTinyVocab);
  return ids;
}

// All that a scenario leaves: bits of logits, and of every committed row in the store.
using Trace = std::vector<std::vector<uint8_t>>;

void Add(Trace& trace, std::span<const std::byte> bytes) {
  std::vector<uint8_t>& copy = trace.emplace_back(bytes.size());
  std::memcpy(copy.data(), bytes.data(), bytes.size());
}
void AddRows(Trace& trace, const SequenceCache& cache) {
  const PagedRows rows = cache.stored_rows();
  const PoolShape& shape = rows.pool->shape();
  for (int32_t layer = 0; layer < shape.layers; ++layer) {
    for (int32_t head = 0; head < shape.kv_heads; ++head) {
      for (int64_t t = 0; t < rows.tokens; t += kPageTokens) {
        const int64_t count = std::min<int64_t>(kPageTokens, rows.tokens - t);
        Add(trace,
            std::as_bytes(std::span(cache.StoreRow(layer, head, t), count * 2 * shape.head_dim)));
      }
    }
  }
}

class PrefillTest : public ::testing::Test {
 protected:
  PrefillTest() { WriteTinyModel(scratch_ / "tiny.gguf", {.layers = 3, .embedding_scale = 0.1f}); }
  std::unique_ptr<MeasuredModel> Load(bool far, int64_t chunk = 512) {
    auto file = *ModelFile::Open(scratch_ / "tiny.gguf");
    LayerPolicy policy = LayerPolicy::Default("tiny", file->fingerprint(), file->hyperparameters());
    policy.select.top_k = 16;
    auto model = *MeasuredModel::Create(std::move(file), policy,
                                        {.threads = 1,
                                         .far_host_memory = far,
                                         .context_tokens = 1024,
                                         .arena_bytes = int64_t{64} << 20});
    model->buffers = *StepBuffers::Make(model->model, chunk, 1);
    return model;
  }
  static void Prefilled(MeasuredModel& m, SequenceCache& cache, int64_t count, uint64_t seed,
                        int64_t spare_bytes, Trace& trace) {
    auto prefill = *Prefill::Start(m.model, Ids(count, seed), cache, spare_bytes);
    while (!prefill->done()) ASSERT_TRUE(prefill->RunUnit(m.buffers).ok());
    prefill.reset();
    Add(trace, std::as_bytes(m.logits()));
  }
  static void Decoded(MeasuredModel& m, SequenceCache& cache, int steps, Trace& trace) {
    for (int step = 0; step < steps; ++step) {
      ASSERT_TRUE(m.Step(ArgMax(m.logits()), m.policy, cache).ok());
      Add(trace, std::as_bytes(m.logits()));
    }
  }
  // A conversation of three turns that end anywhere in a page, and a fork that goes its own way.
  static Trace Converse(MeasuredModel& m, CacheMode mode, int64_t spare_bytes,
                        const std::string& name) {
    Trace trace;
    auto cache = *m.Open(name, mode, kTokens);
    Prefilled(m, *cache, 300, 1, spare_bytes, trace);
    Decoded(m, *cache, 3, trace);
    Prefilled(m, *cache, 211, 2, spare_bytes, trace);
    Decoded(m, *cache, 2, trace);
    auto fork = *m.Fork(*cache, name + " forked", mode, m.policy, kTokens);
    Prefilled(m, *fork, 1, 3, spare_bytes, trace);
    Decoded(m, *fork, 2, trace);
    Prefilled(m, *cache, 124, 4, spare_bytes, trace);  // up to the end of a page
    EXPECT_EQ(cache->tokens() % kPageTokens, 0);
    Decoded(m, *cache, 2, trace);
    Prefilled(m, *fork, 130, 5, spare_bytes, trace);
    Decoded(m, *fork, 2, trace);
    AddRows(trace, *cache);
    AddRows(trace, *fork);
    return trace;
  }

  const ScratchDir scratch_;
};

TEST_F(PrefillTest, RowsOnTheDeviceChangeNoBitOfLogitsAndStoredRows) {
  const auto near = Load(false);
  for (const CacheMode mode : {CacheMode::kHybrid, CacheMode::kFull}) {
    const std::string name = mode == CacheMode::kFull ? "full" : "hybrid";
    const Trace want = Converse(*near, mode, kAll, name);
    for (const int64_t chunk : {512, 64, 17}) {
      for (const int64_t spare_bytes : {kAll, int64_t{0}}) {
        SCOPED_TRACE(absl::StrCat(name, ", chunk ", chunk, ", spare ", spare_bytes));
        const auto far = Load(true, chunk);
        EXPECT_TRUE(Converse(*far, mode, spare_bytes, name) == want);
      }
    }
  }
}

TEST_F(PrefillTest, DecodeStepsOfOtherSequencesBetweenUnitsChangeNothing) {
  const auto run = [&](bool far) {
    const auto m = Load(far, 64);
    Trace trace;
    auto other = *m->Open("other", CacheMode::kHybrid, kTokens);
    Prefilled(*m, *other, 290, 7, kAll, trace);
    auto cache = *m->Open("s", CacheMode::kHybrid, kTokens);
    Prefilled(*m, *cache, 150, 8, kAll, trace);
    auto prefill = *Prefill::Start(m->model, Ids(250, 9), *cache);
    while (!prefill->done()) {
      EXPECT_TRUE(prefill->RunUnit(m->buffers).ok());
      if (!prefill->done()) Decoded(*m, *other, 1, trace);
    }
    Add(trace, std::as_bytes(m->logits()));
    Decoded(*m, *cache, 2, trace);
    AddRows(trace, *cache);
    AddRows(trace, *other);
    return trace;
  };
  EXPECT_TRUE(run(true) == run(false));
}

// Its pages and its memory go to others, which must not find late copies in them.
TEST_F(PrefillTest, AnAbandonedPrefillLeavesNothingBehind) {
  const Trace want = Converse(*Load(false), CacheMode::kHybrid, kAll, "s");
  std::mt19937_64 random(3);
  const auto far = Load(true, 64);
  const int64_t before = far->backend->allocated_bytes();
  for (int round = 0; round < 6; ++round) {
    Trace ignored;
    auto cache = *far->Open("abandoned", CacheMode::kHybrid, kTokens);
    if (round % 2 == 1) Prefilled(*far, *cache, 140, 10, kAll, ignored);
    auto prefill = *Prefill::Start(far->model, Ids(500, 11), *cache);
    const int units = 1 + static_cast<int>(random() % 20);
    for (int unit = 0; unit < units; ++unit) ASSERT_TRUE(prefill->RunUnit(far->buffers).ok());
    prefill.reset();
    const SequenceHandle handle = cache->handle();
    cache.reset();
    ASSERT_TRUE(far->store->CloseSequence(handle).ok());
    EXPECT_EQ(far->backend->allocated_bytes(), before);
    SCOPED_TRACE(absl::StrCat("round ", round, ", ", units, " units"));
    const std::string name = absl::StrCat("s", round);
    EXPECT_TRUE(Converse(*far, CacheMode::kHybrid, kAll, name) == want);
  }
}

TEST_F(PrefillTest, ItTakesTheBytesItSaysAndASecondBufferOnlyWhereThereIsRoom) {
  const auto far = Load(true);
  const PoolShape& shape = far->pool.shape();
  for (const int64_t past : {0, 200}) {
    Trace ignored;
    auto cache = *far->Open(absl::StrCat("s", past), CacheMode::kHybrid, kTokens);
    if (past > 0) Prefilled(*far, *cache, past, 12, kAll, ignored);
    const int64_t before = far->backend->allocated_bytes();
    const int64_t bytes = Prefill::Bytes(shape, far->model.shape.hidden, past, past + 100, true);
    const int64_t layer = LayerRows::Bytes(shape, past + 100);
    for (const int64_t spare : {int64_t{0}, layer - 1, layer, kAll}) {
      const auto prefill = *Prefill::Start(far->model, Ids(100, 13), *cache, spare);
      const int64_t second = past > 0 && spare >= layer ? layer : 0;
      EXPECT_EQ(far->backend->allocated_bytes() - before, bytes + second) << spare;
    }
    EXPECT_EQ(far->backend->allocated_bytes(), before);
  }
}

}  // namespace
}  // namespace tailor
