#include "tests/kvstore/store_walk.h"

#include <algorithm>

namespace tailor {
namespace {

constexpr int64_t kPagesOfPool = 14;
constexpr int64_t kLongest = 6 * kPageTokens;

PoolSpec SpecOf(int pool) {
  PoolSpec spec;
  spec.model.bytes[0] = 1;
  spec.policy.bytes[0] = static_cast<uint8_t>(pool + 1);
  spec.shape = pool == 0 ? PoolShape{2, 1, 16, {1}} : PoolShape{1, 2, 16, {0}};
  spec.max_bytes = PoolLayout::Make(spec.shape, kPagesOfPool)->bytes();
  return spec;
}

// Exact rows are a function of tenant, pool and all ids so far: shared wrongly, they differ.
uint32_t ExactSeed(const ModelSequence& sequence, std::span<const TokenId> ids) {
  uint32_t hash = 2166136261u + static_cast<uint32_t>(sequence.pool);
  for (const char c : sequence.key.tenant) hash = (hash ^ static_cast<uint8_t>(c)) * 16777619u;
  for (const TokenId id : ids) hash = (hash ^ static_cast<uint32_t>(id)) * 16777619u;
  return hash | 1u;
}

std::string ToString(const StoreStats& s) {
  return absl::StrCat("arena ", s.arena_bytes, " pools ", s.pool_bytes, " a page ", s.page_bytes,
                      " total ", s.pages_total, " free ", s.pages_free, " open ", s.pages_open,
                      " sealed ", s.pages_sealed, " shared ", s.pages_shared, " attached ",
                      s.sequences_attached, " detached ", s.sequences_detached, " evicted ",
                      s.evicted_sequences, " damaged ", s.checksum_failures, " stale ",
                      s.stale_refusals, " selects ", s.selects);
}

}  // namespace

Walk::Walk(uint64_t seed)
    : random_(seed),
      store_(PageStore::Create({.arena_bytes = int64_t{2} << 20}).value()),
      model_({*PoolLayout::Make(SpecOf(0).shape, kPagesOfPool),
              *PoolLayout::Make(SpecOf(1).shape, kPagesOfPool)},
             store_->arena().bytes()) {}

void Walk::Expect(const std::string& call, const absl::Status& got, absl::StatusCode want) {
  ++answers_[{call, want}];
  EXPECT_EQ(got.code(), want) << call << ": " << got;
}

// Histories share prefixes: each page is one of two, now and then cut within a page.
std::vector<TokenId> Walk::AnyHistory() {
  std::vector<TokenId> history;
  const int64_t length = OneIn(2) ? kPageTokens * (1 + Below(6)) + 1 : 1 + Below(kLongest);
  while (static_cast<int64_t>(history.size()) < length) {
    const auto page = static_cast<TokenId>(history.size() / kPageTokens);
    const TokenId variant = OneIn(3) ? 1 : 0;
    for (int t = 0; t < kPageTokens; ++t) history.push_back(page * 1000 + variant * 500 + t);
  }
  history.resize(length);
  return history;
}

// Mostly one that is live; else any that ever was, or a live one under another lease.
Life* Walk::AnyLife() {
  if (lives_.empty()) return nullptr;
  if (lives_.size() > 60) lives_.erase(lives_.begin(), lives_.begin() + 30);
  for (int tries = 0; tries < 20; ++tries) {
    Life& life = lives_[Below(lives_.size())];
    if (model_.Find(life.lease, life.handle) != nullptr) return &life;
  }
  return &lives_[Below(lives_.size())];
}

void Walk::OpenLease() {
  if (leases_.size() > 3) return DropLease();
  leases_.push_back(store_->OpenLease());
  model_.OpenLease(leases_.back());
  for (int pool = 0; pool < 2; ++pool) OpenPool();
}

void Walk::DropLease() {
  const uint64_t lease = AnyLease();
  store_->DropLease(lease);
  model_.DropLease(lease);
  // Now and then it is used on.
  if (!OneIn(3)) std::erase(leases_, lease);
}

void Walk::OpenPool() {
  const uint64_t lease = AnyLease();
  const auto pool = static_cast<int>(Below(2));
  const auto opened = store_->OpenPool(lease, SpecOf(pool));
  Expect("OpenPool", opened.status(), model_.OpenPool(lease, pool));
  if (!opened.ok()) return;
  EXPECT_EQ(opened->layout.pages(), kPagesOfPool);
  pool_ids_[pool] = opened->pool;
  views_[pool] = PoolView(store_->arena().base() + opened->arena_offset, opened->layout);
}

void Walk::Bind(const ModelPagePtr& page, PageId id, int pool) {
  if (page->id != kNoPage) {
    EXPECT_EQ(page->id, id) << "a kept page is another";
    return;
  }
  for (const ModelSequencePtr& other : model_.Sequences()) {
    for (const ModelPagePtr& taken : other->pages) {
      EXPECT_FALSE(other->pool == pool && taken->id == id) << "page " << Index(id) << " is taken";
    }
  }
  page->id = id;
}

void Walk::Granted(const StoreGrant& got, const ModelSequencePtr& want,
                   std::vector<TokenId> history) {
  EXPECT_TRUE(generations_.insert(got.grant.handle.generation).second) << "generation used before";
  if (want->handle.id != 0) {
    EXPECT_EQ(got.grant.handle.id, want->handle.id);
  }
  want->handle = got.grant.handle;
  EXPECT_EQ(got.grant.sealed_pages, want->sealed);
  EXPECT_EQ(got.grant.committed_tokens, want->committed);
  EXPECT_EQ(got.grant.exact, want->exact());
  ASSERT_EQ(got.grant.pages.size(), want->pages.size());
  for (size_t p = 0; p < want->pages.size(); ++p) {
    Bind(want->pages[p], got.grant.pages[p], want->pool);
  }
  lives_.push_back({.lease = want->lease,
                    .handle = got.grant.handle,
                    .slot = got.slot,
                    .exact_tokens = got.grant.exact ? got.grant.committed_tokens : 0,
                    .history = std::move(history)});
}

void Walk::OpenSequence() {
  const uint64_t lease = AnyLease();
  const auto pool = static_cast<int>(Below(2));
  const SequenceKey key = AnyKey();
  const std::vector<TokenId> history = OneIn(5) ? std::vector<TokenId>() : AnyHistory();
  const StoreStats before = store_->Stats();
  const auto granted = store_->OpenSequence(lease, pool_ids_[pool], key, history);
  ModelSequencePtr sequence;
  Expect("Open", granted.status(), model_.OpenSequence(lease, pool, key, history, &sequence));
  if (!granted.ok() || sequence == nullptr) return;
  shared_prefixes += sequence->handle.id == 0 && sequence->sealed > 0;
  cut_back += store_->Stats().pages_free > before.pages_free;
  Granted(*granted, sequence, history.empty() ? AnyHistory() : history);
}

void Walk::Fork() {
  Life* life = AnyLife();
  if (life == nullptr) return;
  const uint64_t lease = OneIn(20) ? AnyLease() : life->lease;
  const SequenceKey key = AnyKey();
  const std::vector<TokenId> history = life->history;
  const int64_t exact_tokens = life->exact_tokens;
  const auto granted = store_->ForkSequence(lease, life->handle, key);
  ModelSequencePtr child;
  Expect("Fork", granted.status(), model_.ForkSequence(lease, life->handle, key, &child));
  if (!granted.ok() || child == nullptr) return;
  child->handle = {};
  Granted(*granted, child, history);
  EXPECT_LE(lives_.back().exact_tokens, exact_tokens) << "a copy is no more exact";
}

void Walk::Reserve(Life& life, int64_t count) {
  const uint64_t lease = OneIn(30) ? AnyLease() : life.lease;
  const auto pages = store_->ReservePages(lease, life.handle, count);
  std::vector<ModelPagePtr> want;
  Expect("Reserve", pages.status(), model_.ReservePages(lease, life.handle, count, &want));
  if (!pages.ok()) return;
  const int pool = model_.Find(lease, life.handle)->pool;
  ASSERT_EQ(pages->size(), want.size());
  for (size_t p = 0; p < want.size(); ++p) Bind(want[p], (*pages)[p], pool);
}

// Up to two pages of rows, by prefill or decode; one token past the commit is written too.
void Walk::Write(Life& life) {
  const ModelSequencePtr s = model_.Find(life.lease, life.handle);
  if (s == nullptr) return;
  const int64_t end = std::min(s->committed + 1 + Below(2 * kPageTokens), kLongest + 1);
  const int64_t missing =
      (end + kPageTokens - 1) / kPageTokens - static_cast<int64_t>(s->pages.size());
  if (missing > 0) Reserve(life, missing);
  const int64_t room = static_cast<int64_t>(s->pages.size()) * kPageTokens;
  const bool exact = life.exact_tokens == s->committed && !OneIn(4);
  std::vector<TokenId> ids = s->Tokens(s->committed);
  for (int64_t t = s->committed; t <= end && t < room; ++t) {
    const bool known = t < static_cast<int64_t>(life.history.size());
    ids.push_back(known ? life.history[t] : static_cast<TokenId>(7000 + Below(2)));
    ModelPage& page = *s->pages[t / kPageTokens];
    page.tokens[t % kPageTokens] = ids.back();
    uint32_t& seed = page.row_seeds[t % kPageTokens];
    seed = exact ? ExactSeed(*s, ids) : static_cast<uint32_t>(random_()) | 1u;
    WriteToken(views_[s->pool], page.id, t, ids.back(), seed);
  }
  s->committed = std::max(s->committed, std::min(end, room));
  if (exact) life.exact_tokens = s->committed;
  CommitInSlot(*store_, life.slot, s->committed);
}

void Walk::Seal(Life& life) {
  const ModelSequencePtr s = model_.Find(life.lease, life.handle);
  const int64_t whole = s == nullptr ? 1 : s->committed / kPageTokens - s->sealed;
  const int64_t count = OneIn(8) ? Below(5) - 1 : whole;
  const bool exact = s != nullptr && (s->sealed + count) * kPageTokens <= life.exact_tokens;
  const PageOrigin origin = exact && !OneIn(8) ? PageOrigin::kExactPrefill : PageOrigin::kDecoded;
  const int64_t first = s == nullptr ? 0 : s->sealed;
  Expect("Seal", store_->SealPages(life.lease, life.handle, count, origin),
         model_.SealPages(life.lease, life.handle, count, origin));
  if (s == nullptr || origin != PageOrigin::kExactPrefill) return;
  // The worker went by `exact` of its grant: its word must have been true.
  for (int64_t t = first * kPageTokens; t < s->sealed * kPageTokens; ++t) {
    ASSERT_EQ(s->pages[t / kPageTokens]->row_seeds[t % kPageTokens],
              ExactSeed(*s, s->Tokens(t + 1)))
        << "token " << t << " is decoded and was granted as exact";
  }
}

void Walk::Verify(Life& life) {
  const ModelSequencePtr s = model_.Find(life.lease, life.handle);
  const int64_t sealed = s == nullptr ? 1 : s->sealed;
  if (s == nullptr || sealed == 0 || !OneIn(3)) {
    const int64_t first = Below(sealed + 2) - 1, count = Below(sealed + 2) - 1;
    return Expect("Verify", store_->VerifyPages(life.lease, life.handle, first, count),
                  model_.VerifyPages(life.lease, life.handle, first, count));
  }
  const ModelPagePtr page = s->pages[Below(sealed)];
  const PoolShape& shape = views_[s->pool].shape();
  BFloat16* rows = views_[s->pool].Rows(static_cast<int>(Below(shape.layers)),
                                        static_cast<int>(Below(shape.kv_heads)), page->id);
  uint16_t& damaged = rows[Below(kPageTokens * 2 * shape.head_dim)].bits;
  const auto bit = static_cast<uint16_t>(1u << Below(16));
  damaged ^= bit;
  Expect("Verify", store_->VerifyPages(life.lease, life.handle, 0, sealed),
         absl::StatusCode::kDataLoss);
  damaged ^= bit;
  model_.FoundDamage(page);
}

void Walk::CheckRow(const PoolView& view, int layer, int head, int64_t token, uint32_t seed,
                    const BFloat16* row) {
  const int d = view.shape().head_dim;
  for (int i = 0; i < 2 * d; ++i) {
    const BFloat16 want =
        seed == 0 ? BFloat16{0} : ToBFloat16(KnownValue(seed, layer, head, token, i / d, i % d));
    ASSERT_EQ(row[i].bits, want.bits)
        << "layer " << layer << " head " << head << " token " << token << " value " << i;
  }
}

// As many rows as there are candidates: all of them come, as they were written.
void Walk::Select(Life& life) {
  const ModelSequencePtr s = model_.Find(life.lease, life.handle);
  // Sometimes over fewer pages than are sealed, or over one too many.
  const int64_t held = s == nullptr ? 0 : s->sealed;
  const int64_t sealed = OneIn(10) ? held + 1 : OneIn(4) ? Below(held + 1) : held;
  const int pool = s == nullptr ? 0 : s->pool;
  if (pool_ids_[pool] == 0) return;
  const PoolShape& shape = views_[pool].shape();
  const std::vector<float> q = KnownQuery(shape, 2 * shape.kv_heads, 3);
  const int32_t layer = shape.sparse_layers[0], sink = static_cast<int32_t>(8 * Below(17));
  SelectScratch scratch;
  Selection out;
  const auto selected =
      store_->Select(life.lease,
                     {.sequence = life.handle,
                      .layer = layer,
                      .sealed_pages = sealed,
                      .q = q,
                      .params = {.channels = 3, .top_k = 4096, .sink_tokens = sink}},
                     scratch, &out);
  Expect("Select", selected.status(), model_.Select(life.lease, life.handle, sealed));
  if (!selected.ok()) return;
  ASSERT_EQ(out.count, std::max<int64_t>(0, sealed * kPageTokens - sink));
  for (int32_t i = 0; i < shape.kv_heads * out.count; ++i) {
    const int32_t token = sink + i % out.count;
    ASSERT_EQ(out.tokens[i], token);
    CheckRow(views_[pool], layer, i / out.count, token,
             s->pages[token / kPageTokens]->row_seeds[token % kPageTokens],
             out.rows.data() + int64_t{i} * 2 * shape.head_dim);
  }
}

void Walk::End(Life& life) {
  if (OneIn(3)) {
    return Expect("Close", store_->CloseSequence(life.lease, life.handle),
                  model_.CloseSequence(life.lease, life.handle));
  }
  Expect("Detach", store_->DetachSequence(life.lease, life.handle),
         model_.DetachSequence(life.lease, life.handle));
}

void Walk::Remove() {
  const uint64_t lease = AnyLease();
  const SequenceKey key = AnyKey();
  Expect("Remove", store_->RemoveSequence(lease, key), model_.RemoveSequence(lease, key));
}

void Walk::Step() {
  const int64_t choice = Below(100);
  if (choice < 1) return DropLease();
  if (choice < 3 || leases_.empty()) return OpenLease();
  if (choice < 6) return OpenPool();
  if (choice < 26) return OpenSequence();
  if (choice < 31) return Fork();
  if (choice < 33) return Remove();
  Life* life = OneIn(20) && !lives_.empty() ? &lives_[Below(lives_.size())] : AnyLife();
  if (life == nullptr) return;
  if (choice < 38) return Reserve(*life, Below(5) - 1);
  if (choice < 62) return Write(*life);
  if (choice < 80) return Seal(*life);
  if (choice < 87) return Verify(*life);
  if (choice < 91) return Select(*life);
  End(*life);
}

void Walk::CheckBooks() {
  ASSERT_TRUE(store_->Audit().ok()) << store_->Audit();
  const StoreStats got = store_->Stats(), want = model_.Stats();
  EXPECT_EQ(got.pages_free + got.pages_open + got.pages_sealed, got.pages_total);
  EXPECT_EQ(ToString(got), ToString(want));
  std::map<std::pair<int, uint32_t>, ModelSequencePtr> listed;
  for (const ModelSequencePtr& s : model_.Sequences()) {
    for (const ModelPagePtr& page : s->pages) {
      const auto& first = listed.emplace(std::pair(s->pool, Index(page->id)), s).first->second;
      EXPECT_EQ(first->key.tenant, s->key.tenant) << "a page of two tenants";
    }
  }
}

// Reads one page of one live sequence, attached or not.
void Walk::CheckAPage() {
  const std::vector<ModelSequencePtr> all = model_.Sequences();
  if (all.empty()) return;
  const ModelSequence& s = *all[Below(all.size())];
  if (s.pages.empty()) return;
  const int64_t p = Below(s.pages.size());
  const ModelPage& page = *s.pages[p];
  const PoolView& view = views_[s.pool];
  const int d = view.shape().head_dim;
  EXPECT_EQ(view.Header(page.id)->state, p < s.sealed ? PageState::kSealed : PageState::kOpen);
  for (int t = 0; t < kPageTokens; ++t) {
    ASSERT_EQ(view.Tokens(page.id)[t], page.tokens[t]);
    for (int layer = 0; layer < view.shape().layers; ++layer) {
      for (int head = 0; head < view.shape().kv_heads; ++head) {
        CheckRow(view, layer, head, p * kPageTokens + t, page.row_seeds[t],
                 view.Rows(layer, head, page.id) + int64_t{t} * 2 * d);
      }
    }
  }
}

}  // namespace tailor
