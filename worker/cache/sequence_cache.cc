#include "worker/cache/sequence_cache.h"

#include <algorithm>
#include <limits>

#include "worker/cache/device_fetcher.h"
#include "worker/cache/doorbell_fetcher.h"
#include "worker/cache/full_cache.h"
#include "worker/cache/offloaded_cache.h"
#include "worker/cache/quantized_cache.h"
#include "worker/cache/resident_window.h"

namespace tailor {
namespace {

int64_t PagesFor(int64_t tokens) { return (tokens + kPageTokens - 1) / kPageTokens; }

// Pages the window may straddle: less than a page plus WindowTokens() is ever unsealed.
int64_t WindowSlots(const LayerPolicy& policy) {
  return PagesFor(kPageTokens + policy.WindowTokens());
}

std::unique_ptr<LayerCache> MakeLayerCache(Backend* backend, int32_t layer, const PoolShape& shape,
                                           const LayerPolicy& policy, CacheMode mode) {
  if (mode == CacheMode::kFull) return std::make_unique<FullCache>(backend, layer, shape);
  if (policy.IsQuantized(layer)) {
    return std::make_unique<QuantizedCache>(backend, layer, shape, policy.bits,
                                            WindowSlots(policy));
  }
  return std::make_unique<OffloadedCache>(backend, layer, shape, policy.sink_tokens,
                                          WindowSlots(policy), policy.TailGain());
}

}  // namespace

SequenceCache::SequenceCache(Backend* backend, KvClient* store, const PoolView* pool,
                             const LayerPolicy& policy, CacheMode mode, SequenceGrant grant,
                             DoorbellLine* doorbell)
    : backend_(backend),
      store_(store),
      pool_(pool),
      policy_(policy),
      mode_(mode),
      grant_(std::move(grant)) {
  for (int32_t layer = 0; layer < pool_->shape().layers; ++layer) {
    layers_.push_back(MakeLayerCache(backend_, layer, pool_->shape(), policy_, mode_));
  }
  budget_doublings_ = grant_.budget_doublings;
  fetcher_ = MakeFetcher(doorbell);
  fetcher_->SetDoublings(budget_doublings_);
}

SequenceCache::~SequenceCache() {
  fetcher_.reset();  // ends what the stream may be waiting for
  backend_->Synchronize();
}

std::unique_ptr<RowFetcher> SequenceCache::MakeFetcher(DoorbellLine* doorbell) const {
  const SelectParams& params = policy_.select;
  const std::vector<int32_t>& top_k = policy_.layer_top_k;
  switch (RunnableSelector(policy_.selector, *backend_)) {
    case Selector::kInline:
      return MakeInlineFetcher(backend_, pool_->shape(), params, top_k);
    case Selector::kStore:
      if (doorbell == nullptr) return MakeStoreFetcher(store_, params, top_k);
      return MakeDoorbellFetcher(doorbell, params, top_k);
    case Selector::kSketch:
      return MakeDeviceFetcher(backend_, pool_->shape(), params, top_k, IndexPlace::kSketch,
                               policy_.row_cache_rows);
    case Selector::kDevice:
      return MakeDeviceFetcher(backend_, pool_->shape(), params, top_k, IndexPlace::kStore, 0);
  }
  TS_CHECK(false);
}

absl::StatusOr<std::unique_ptr<SequenceCache>> SequenceCache::Make(
    Backend* backend, KvClient* store, const PoolView* pool, const LayerPolicy& policy,
    CacheMode mode, SequenceGrant grant, DoorbellLine* doorbell) {
  std::unique_ptr<SequenceCache> cache(
      new SequenceCache(backend, store, pool, policy, mode, std::move(grant), doorbell));
  TS_RETURN_IF_ERROR(cache->LoadGrant());
  return cache;
}

absl::Status SequenceCache::LoadGrant() {
  const int64_t tokens = grant_.committed_tokens;
  if (grant_.sealed_pages > 0) {
    TS_RETURN_IF_ERROR(store_->VerifyPages(grant_.handle, 0, grant_.sealed_pages));
  }
  for (int64_t position = 0; position < tokens; ++position) {
    token_ids_.push_back(
        pool_->Tokens(grant_.pages[position / kPageTokens])[position % kPageTokens]);
  }
  exact_tokens_ = grant_.exact ? tokens : 0;
  // A lost lease may have come between the commit and the seal of a page.
  TS_RETURN_IF_ERROR(SealUpTo(PagesToSeal(tokens)));
  for (int32_t layer = 0; layer < pool_->shape().layers; ++layer) {
    TS_RETURN_IF_ERROR(layers_[layer]->Extend(Rows(tokens)));
    TS_RETURN_IF_ERROR(layers_[layer]->LoadSealed(Rows(tokens)));
  }
  return ExtendFetcher();
}

LayerBytes SequenceCache::Quote(const LayerPolicy& policy, const PoolShape& shape, CacheMode mode,
                                int64_t tokens) {
  const int64_t page_bytes = ResidentWindow::PageBytes(shape.kv_heads, shape.head_dim);
  if (mode == CacheMode::kFull) {
    return {.codes = 0, .resident = PagesFor(tokens) * page_bytes * shape.layers};
  }
  LayerBytes bytes;
  const int64_t sealed = std::max<int64_t>(0, tokens - policy.WindowTokens()) / kPageTokens;
  bytes.resident = WindowSlots(policy) * page_bytes * shape.layers;
  if (sealed > 0) {
    bytes.resident += static_cast<int64_t>(policy.SparseLayers(shape.layers).size()) *
                      shape.kv_heads * policy.sink_tokens * 2 * shape.head_dim *
                      static_cast<int64_t>(sizeof(BFloat16));
  }
  if (policy.tail != Tail::kNone) {
    bytes.resident += static_cast<int64_t>(policy.SparseLayers(shape.layers).size()) *
                      MeanRows::Bytes(shape.kv_heads, shape.head_dim, sealed);
  }
  const QuantizedPageShape codes = {.bits = policy.bits, .head_dim = shape.head_dim};
  bytes.codes = static_cast<int64_t>(policy.quantized_layers.size()) * sealed * shape.kv_heads *
                codes.PageBytes();
  if (policy.selector == Selector::kSketch) {
    bytes.sketch = sealed * SketchPageBytes(shape);
    if (sealed > 0) bytes.row_cache = RowCacheBytes(shape, policy.row_cache_rows);
  }
  return bytes;
}

int64_t SequenceCache::PagesToSeal(int64_t tokens) const {
  return std::max<int64_t>(0, tokens - policy_.WindowTokens()) / kPageTokens;
}

PagedRows SequenceCache::Rows(int64_t tokens) const {
  return {
      .pool = pool_, .pages = grant_.pages, .sealed_pages = PagesToSeal(tokens), .tokens = tokens};
}

absl::Status SequenceCache::Reserve(int64_t tokens) {
  const int64_t missing = PagesFor(tokens) - static_cast<int64_t>(grant_.pages.size());
  if (missing > 0) {
    TS_ASSIGN_OR_RETURN(const std::vector<PageId> pages,
                        store_->ReservePages(grant_.handle, missing));
    grant_.pages.insert(grant_.pages.end(), pages.begin(), pages.end());
  }
  for (const auto& layer : layers_) TS_RETURN_IF_ERROR(layer->Extend(Rows(this->tokens())));
  return absl::OkStatus();
}

BFloat16* SequenceCache::StoreRow(int32_t layer, int32_t kv_head, int64_t position) const {
  return pool_->Rows(layer, kv_head, grant_.pages[position / kPageTokens]) +
         (position % kPageTokens) * 2 * pool_->shape().head_dim;
}

void SequenceCache::NewRows(int32_t layer, std::span<BFloat16*> store_rows,
                            std::span<BFloat16*> window_rows) {
  TS_CHECK(tokens() < static_cast<int64_t>(grant_.pages.size()) * kPageTokens);
  for (int32_t head = 0; head < pool_->shape().kv_heads; ++head) {
    store_rows[head] = StoreRow(layer, head, tokens());
  }
  layers_[layer]->NewRows(tokens(), window_rows);
}

bool SequenceCache::Fetches(int32_t layer) const {
  return mode_ == CacheMode::kHybrid && PagesToSeal(tokens()) > 0 &&
         !policy_.IsQuantized(layer) && !attends_exactly();
}

absl::Status SequenceCache::PostFetch(int32_t layer, std::span<const float> q) {
  const bool on_device = fetcher_->query_in() == RowFetcher::QueryIn::kDevice;
  return fetcher_->Post(layer, Sealed(), on_device ? q : backend_->ReadBack(q, &host_q_));
}

SealedPages SequenceCache::Sealed() const {
  const auto sealed = static_cast<size_t>(PagesToSeal(tokens()));
  return {.pool = pool_, .pages = {grant_.pages.data(), sealed}, .sequence = grant_.handle};
}

absl::Status SequenceCache::ExtendFetcher() {
  return mode_ == CacheMode::kHybrid ? fetcher_->Extend(Sealed()) : absl::OkStatus();
}

absl::Status SequenceCache::Attend(int32_t layer, MatrixView<const float> q,
                                   MatrixView<float> out) {
  AttendCall call = {.q = q, .tokens = tokens() + 1, .fetched = {}, .out = out, .lse = {}};
  if (Fetches(layer)) {
    TS_ASSIGN_OR_RETURN(call.fetched, fetcher_->Take(layer));
    rows_fetched_ += int64_t{call.fetched.count} * pool_->shape().kv_heads;
  }
  if (probe_ != nullptr) call.lse = probe_->lse();
  TS_RETURN_IF_ERROR(AttendLayer(layer, call));
  if (probe_ != nullptr) probe_->OnAttend(layer, Rows(tokens() + 1), call);
  return absl::OkStatus();
}

absl::Status SequenceCache::AttendLayer(int32_t layer, AttendCall& call) {
  const bool sparse = mode_ == CacheMode::kHybrid && !policy_.IsQuantized(layer);
  if (sparse && attends_exactly()) {
    rows_fetched_ += call.tokens * pool_->shape().kv_heads;
    backend_->Attend({.q = call.q,
                      .segments = StoreSegments(layer, call.tokens),
                      .head_dim = pool_->shape().head_dim,
                      .mask = Mask::kNone,
                      .out = call.out,
                      .lse = call.lse});
    return absl::OkStatus();
  }
  layers_[layer]->Attend(call, scratch_);
  return Fetches(layer) && ChecksNow() ? CheckHead(layer, call) : absl::OkStatus();
}

bool SequenceCache::ChecksNow() const {
  if (policy_.check_every_tokens == 0) return false;
  return tokens() == turn_start_ || tokens() % policy_.check_every_tokens == 0;
}

// Notes what one KV head attended, which rows it fetched and what came out; the store is asked when
// the step ends. Memory is for this step alone: checks are too seldom to hold any.
absl::Status SequenceCache::CheckHead(int32_t layer, const AttendCall& call) {
  const PoolShape& shape = pool_->shape();
  const int64_t d = shape.head_dim, width = call.q.cols / shape.kv_heads, group = width / d;
  // All heads in turn, whatever the number of layers.
  const int64_t head = (tokens() / std::max(policy_.check_every_tokens, 1) + layer) % shape.kv_heads;
  const int64_t q_heads = call.q.cols / d;
  const auto floats = static_cast<int64_t>(sizeof(float));
  TS_ASSIGN_OR_RETURN(const DeviceBuffer whole,
                      backend_->Allocate((call.q.cols + q_heads) * floats));
  TS_ASSIGN_OR_RETURN(const DeviceBuffer partial, backend_->Allocate((width + group) * floats));
  StepCheck::Head check = {
      .query = {layer, static_cast<int32_t>(head), std::vector<float>(width)},
      .attended_lse = std::vector<float>(group),
      .attended_out = std::vector<float>(width),
      .fetched_lse = std::vector<float>(group, -std::numeric_limits<float>::infinity()),
      .fetched_out = std::vector<float>(width, 0.0f),
      .out = std::vector<float>(width)};
  const auto download = [&](const float* from, std::vector<float>& to) {
    backend_->Download(from, std::as_writable_bytes(std::span(to)));
  };
  download(call.q.data + head * width, check.query.q);
  download(call.out.data + head * width, check.out);

  AttendCall attended = call;  // all heads again, without the tail
  attended.out = {whole.As<float>(), 1, call.q.cols};
  attended.lse = {whole.As<float>() + call.q.cols, 1, q_heads};
  attended.with_tail = false;
  layers_[layer]->Attend(attended, scratch_);
  download(attended.out.data + head * width, check.attended_out);
  download(attended.lse.data + head * group, check.attended_lse);

  if (call.fetched.count > 0) {
    const MatrixView<float> out(partial.As<float>(), 1, width);
    const MatrixView<float> lse(partial.As<float>() + width, 1, group);
    const auto fetched =
        call.fetched.rows.subspan(head * call.fetched.count * 2 * d, call.fetched.count * 2 * d);
    const RowSegment rows = {
        reinterpret_cast<const BFloat16*>(backend_->Stage(std::as_bytes(fetched))),
        call.fetched.count};
    const std::span<const RowSegment> segments(&rows, 1);
    backend_->Attend({.q = {call.q.data + head * width, 1, width},
                      .segments = std::span(&segments, 1),
                      .head_dim = shape.head_dim,
                      .mask = Mask::kNone,
                      .out = out,
                      .lse = lse});
    download(out.data, check.fetched_out);
    download(lse.data, check.fetched_lse);
  }
  step_check_.Add(std::move(check));
  return absl::OkStatus();
}

// Compares with the store's exact attention. Below the floor the budget doubles, from the token after
// this one on.
absl::Status SequenceCache::FinishCheck() {
  if (step_check_.empty()) return absl::OkStatus();
  TS_ASSIGN_OR_RETURN(const std::vector<ExactOutput> answers,
                      store_->AttendExactly({.sequence = grant_.handle,
                                             .sealed_pages = PagesToSeal(tokens()),
                                             .sink_tokens = policy_.sink_tokens,
                                             .queries = step_check_.Queries()}));
  const double captured = step_check_.Finish(answers, checks_);
  if (captured >= policy_.mass_floor) return absl::OkStatus();
  ++budget_doublings_;
  fetcher_->SetDoublings(budget_doublings_);
  return store_->SetBudget(grant_.handle, budget_doublings_, tokens() + 1);
}

absl::Status SequenceCache::PublishTokens(std::span<const TokenId> ids) {
  for (const TokenId id : ids) {
    const int64_t position = tokens();
    pool_->Tokens(grant_.pages[position / kPageTokens])[position % kPageTokens] = id;
    token_ids_.push_back(id);
  }
  grant_.committed_tokens = tokens();
  backend_->Synchronize();  // the tokens' rows are in the pages
  return store_->Commit(grant_.handle, tokens());
}

absl::Status SequenceCache::SealUpTo(int64_t sealed_pages) {
  while (grant_.sealed_pages < sealed_pages) {
    // One call for each run of pages of one origin.
    const bool exact = (grant_.sealed_pages + 1) * kPageTokens <= exact_tokens_;
    const int64_t exact_pages = std::min(sealed_pages, exact_tokens_ / kPageTokens);
    const int64_t end = exact ? exact_pages : sealed_pages;
    TS_RETURN_IF_ERROR(store_->SealPages(grant_.handle, end - grant_.sealed_pages,
                                         exact ? PageOrigin::kExactPrefill : PageOrigin::kDecoded));
    grant_.sealed_pages = end;
  }
  return absl::OkStatus();
}

absl::Status SequenceCache::CommitToken(TokenId token) {
  TS_RETURN_IF_ERROR(fetcher_->Settle());
  TS_RETURN_IF_ERROR(FinishCheck());
  const int64_t page = PagesToSeal(tokens());
  TS_RETURN_IF_ERROR(PublishTokens(std::span(&token, 1)));
  if (PagesToSeal(tokens()) == page) return absl::OkStatus();
  TS_RETURN_IF_ERROR(SealUpTo(page + 1));
  for (const auto& layer : layers_) TS_RETURN_IF_ERROR(layer->Seal(Rows(tokens()), page));
  return ExtendFetcher();
}

std::span<const std::span<const RowSegment>> SequenceCache::StoreSegments(int32_t layer,
                                                                          int64_t tokens) {
  scratch_.Clear(pool_->shape().kv_heads);
  for (int32_t head = 0; head < pool_->shape().kv_heads; ++head) {
    for (int64_t first = 0; first < tokens; first += kPageTokens) {
      scratch_.segments[head].push_back(
          {StoreRow(layer, head, first),
           static_cast<int32_t>(std::min<int64_t>(kPageTokens, tokens - first))});
    }
  }
  return scratch_.Segments();
}

absl::Status SequenceCache::ExtendLayer(int32_t layer, int64_t tokens, const LayerRows* on_device) {
  PagedRows rows = Rows(tokens);
  rows.on_device = on_device;
  return layers_[layer]->Extend(rows);
}

absl::Status SequenceCache::CommitPrefill(std::span<const TokenId> new_tokens) {
  if (exact_tokens_ == tokens()) exact_tokens_ += static_cast<int64_t>(new_tokens.size());
  TS_RETURN_IF_ERROR(PublishTokens(new_tokens));
  TS_RETURN_IF_ERROR(SealUpTo(PagesToSeal(tokens())));
  for (const auto& layer : layers_) TS_RETURN_IF_ERROR(layer->LoadSealed(Rows(tokens())));
  return ExtendFetcher();
}

CacheTotals SequenceCache::totals() const {
  CacheTotals totals;
  for (const auto& layer : layers_) {
    const LayerBytes bytes = layer->bytes();
    totals.worker.codes += bytes.codes;
    totals.worker.resident += bytes.resident;
  }
  totals.worker.sketch = fetcher_->sketch_bytes();
  totals.worker.row_cache = fetcher_->row_cache_bytes();
  totals.rows_cached = fetcher_->cached_rows();
  const PoolShape& shape = pool_->shape();
  const int64_t pages = static_cast<int64_t>(grant_.pages.size());
  const int64_t row_bytes = int64_t{2} * shape.head_dim * static_cast<int64_t>(sizeof(BFloat16));
  totals.store_rows = pages * shape.layers * shape.kv_heads * kPageTokens * row_bytes;
  totals.store_index = pages * static_cast<int64_t>(shape.sparse_layers.size()) * shape.kv_heads *
                       shape.head_dim * (kPageTokens / 2 + 4 * static_cast<int64_t>(sizeof(float)));
  totals.rows_fetched = rows_fetched_;
  totals.bytes_fetched = (rows_fetched_ - totals.rows_cached) * row_bytes;
  return totals;
}

}  // namespace tailor
