// One step of several sequences, with fetchers that fail at random: those that do not fail have the
// logits they have alone, and selections are posted and taken in one order, four ahead at most.
#include "worker/model/decode_step.h"

#include <gtest/gtest.h>

#include <deque>
#include <random>

#include "absl/strings/str_cat.h"
#include "tests/support/tiny_model.h"
#include "worker/quality/measured_model.h"

namespace tailor {
namespace {

// What a store's client allows: few selections that are posted and not taken, taken in order.
struct Ledger {
  std::mt19937_64 random;
  double failures = 0;  // of posts and of takes
  std::deque<std::pair<const void*, int32_t>> open;
  size_t most_open = 0;

  bool Fails() { return std::uniform_real_distribution<>(0, 1)(random) < failures; }
};

class LedgerFetcher final : public RowFetcher {
 public:
  LedgerFetcher(Ledger* ledger, std::unique_ptr<RowFetcher> inner)
      : ledger_(ledger), inner_(std::move(inner)) {}

  absl::Status Post(int32_t layer, const SealedPages& sealed, std::span<const float> q) override {
    if (ledger_->Fails()) return absl::UnavailableError("post");
    ledger_->open.emplace_back(this, layer);
    ledger_->most_open = std::max(ledger_->most_open, ledger_->open.size());
    return inner_->Post(layer, sealed, q);
  }
  absl::StatusOr<SelectedRows> Take(int32_t layer) override {
    EXPECT_FALSE(ledger_->open.empty());
    EXPECT_EQ(ledger_->open.front(), std::make_pair(static_cast<const void*>(this), layer));
    ledger_->open.pop_front();
    auto rows = inner_->Take(layer);
    if (ledger_->Fails()) return absl::DataLossError("take");
    return rows;
  }

 private:
  Ledger* const ledger_;
  const std::unique_ptr<RowFetcher> inner_;
};

class DecodeStepTest : public ::testing::TestWithParam<QueryMode> {
 protected:
  static constexpr int kSteps = 3;

  DecodeStepTest() {
    WriteTinyModel(scratch_ / "tiny.gguf", {.embedding_scale = 0.1f});
    auto file = *ModelFile::Open(scratch_ / "tiny.gguf");
    LayerPolicy policy =
        LayerPolicy::Default(file->name(), file->fingerprint(), file->hyperparameters());
    policy.query = GetParam();
    policy.select.top_k = 16;
    policy.quantized_layers = {
        2};  // the first fetches by its own query, the last has none after it
    policy.check_every_tokens = 0;
    model_ = *MeasuredModel::Create(std::move(file), policy,
                                    {.threads = 1,
                                     .context_tokens = 1024,
                                     .arena_bytes = int64_t{64} << 20,
                                     .decode_rows = kMaxDecodeRows});
    std::mt19937_64 random(7);
    for (const int length : {1, 200, 330, 420, 512}) {
      std::vector<TokenId> ids(length);
      for (TokenId& id : ids) id = static_cast<TokenId>(random() % kTinyVocab);
      prompts_.push_back(
          *model_->Open(std::to_string(length), CacheMode::kHybrid, length + kSteps));
      TS_CHECK(model_->RunPrefill(ids, *prompts_.back()).ok());
    }
  }

  std::unique_ptr<SequenceCache> Fork(size_t prompt, CacheMode mode) {
    const SequenceCache& parent = *prompts_[prompt];
    return *model_->Fork(parent, absl::StrCat("fork ", forks_++), mode, model_->policy,
                         parent.tokens() + kSteps);
  }
  std::vector<float> Logits(int64_t row) const {
    const std::span<const float> logits = model_->buffers.logits.row(row);
    return {logits.begin(), logits.end()};
  }
  static TokenId Token(size_t sequence, int step) {
    return static_cast<TokenId>((17 * sequence + 5 * step) % kTinyVocab);
  }
  void Close(std::unique_ptr<SequenceCache> cache) {
    const SequenceHandle handle = cache->handle();
    cache.reset();
    TS_CHECK(model_->store->CloseSequence(handle).ok());
  }
  // [step]: the logits of one sequence that nobody disturbs.
  std::vector<std::vector<float>> Alone(size_t sequence, std::unique_ptr<SequenceCache> cache) {
    std::vector<std::vector<float>> logits;
    for (int step = 0; step < kSteps; ++step) {
      TS_CHECK(model_->Step(Token(sequence, step), model_->policy, *cache).ok());
      logits.push_back(Logits(0));
    }
    Close(std::move(cache));
    return logits;
  }
  std::unique_ptr<RowFetcher> Watched(Ledger* ledger) const {
    return std::make_unique<LedgerFetcher>(
        ledger, MakeInlineFetcher(model_->backend.get(), model_->pool.shape(),
                                  model_->policy.select, model_->policy.layer_top_k));
  }
  void RunTrial(uint64_t seed);

  const ScratchDir scratch_;
  std::unique_ptr<MeasuredModel> model_;
  std::vector<std::unique_ptr<SequenceCache>> prompts_;
  int forks_ = 0, failed_ = 0, lived_ = 0;
};
INSTANTIATE_TEST_SUITE_P(Query, DecodeStepTest,
                         ::testing::Values(QueryMode::kExact, QueryMode::kPredicted),
                         [](const auto& info) {
                           return info.param == QueryMode::kExact ? "Exact" : "Predicted";
                         });

// Some sequences for kSteps steps; those that fail drop out, as in the engine.
void DecodeStepTest::RunTrial(uint64_t seed) {
  SCOPED_TRACE(absl::StrCat("seed ", seed));
  Ledger ledger{.random = std::mt19937_64(seed), .open = {}};
  const size_t count = 1 + ledger.random() % kMaxDecodeRows;
  std::vector<std::unique_ptr<SequenceCache>> caches;
  std::vector<std::vector<std::vector<float>>> want;
  for (size_t i = 0; i < count; ++i) {
    const size_t prompt = ledger.random() % prompts_.size();
    const CacheMode mode = ledger.random() % 4 == 0 ? CacheMode::kFull : CacheMode::kHybrid;
    want.push_back(Alone(i, Fork(prompt, mode)));
    caches.push_back(Fork(prompt, mode));
    caches.back()->set_fetcher(Watched(&ledger));
  }
  ledger.failures = seed % 2 == 0 ? 0.0 : 0.03;
  std::vector<size_t> alive(count);
  for (size_t i = 0; i < count; ++i) alive[i] = i;
  for (int step = 0; step < kSteps && !alive.empty(); ++step) {
    std::vector<DecodeRow> rows;
    for (const size_t i : alive) rows.push_back({Token(i, step), caches[i].get(), {}});
    model_->StepAll(model_->policy, rows);
    EXPECT_TRUE(ledger.open.empty()) << "posted and never taken";
    std::vector<size_t> next;
    for (size_t r = 0; r < rows.size(); ++r) {
      if (!rows[r].status.ok()) {
        ++failed_;
        continue;
      }
      ++lived_;
      next.push_back(alive[r]);
      EXPECT_EQ(Logits(static_cast<int64_t>(r)), want[alive[r]][step])
          << "sequence " << alive[r] << " of " << count << ", step " << step;
    }
    if (ledger.failures == 0) {
      EXPECT_EQ(next, alive);
    }
    alive = std::move(next);
  }
  EXPECT_LE(ledger.most_open, static_cast<size_t>(kMaxPendingSelects));
  for (auto& cache : caches) Close(std::move(cache));
}

TEST_P(DecodeStepTest, RowsHaveTheLogitsTheyHaveAloneWhoeverFailsBesideThem) {
  for (uint64_t seed = 1; seed <= 30 && !HasFailure(); ++seed) RunTrial(seed);
  EXPECT_GT(failed_, 20);
  EXPECT_GT(lived_, 200);
}

}  // namespace
}  // namespace tailor
