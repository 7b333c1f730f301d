#include "worker/cache/device_fetcher.h"

#include <algorithm>
#include <array>
#include <deque>
#include <utility>

#include "common/status.h"
#include "kvstore/select/key_codes.h"
#include "worker/cache/layer_params.h"
#include "worker/ops/cuda/device_select.h"

namespace tailor {
namespace {

static_assert(kIndexCodeBytes == kCodeBytes);

int32_t IndexSlices(const PoolShape& shape) {
  return static_cast<int32_t>(shape.sparse_layers.size()) * shape.kv_heads;
}

// A sequence's sealed pages as the device sees them: where index and rows of each begin.
class DevicePages {
 public:
  DevicePages(Backend* backend, const PoolShape& shape, IndexPlace place)
      : backend_(backend), slices_(IndexSlices(shape)), head_dim_(shape.head_dim), place_(place) {}

  // Covers exactly sealed.pages, copying what is new. Errors: ResourceExhausted.
  absl::Status Extend(const SealedPages& sealed);
  // Whether they only add to those covered.
  bool Continues(const SealedPages& sealed) const {
    return std::mismatch(ids_.begin(), ids_.end(), sealed.pages.begin(), sealed.pages.end())
               .first == ids_.end();
  }
  const IndexPage* table() const { return table_.As<IndexPage>(); }
  IndexStrides Strides(const PoolView& pool) const;
  int64_t sketch_bytes() const {
    return static_cast<int64_t>(sketches_.size()) * SketchBytes(slices_, head_dim_);
  }

 private:
  absl::Status CopyNewPages(size_t first, const PoolView& pool);
  absl::Status UploadTable();

  Backend* backend_;
  const int32_t slices_, head_dim_;
  const IndexPlace place_;
  std::vector<PageId> ids_;
  std::vector<IndexPage> pages_;        // [ids]
  std::vector<DeviceBuffer> sketches_;  // [ids] with kSketch
  DeviceBuffer table_;                  // pages_, with room to grow
};

// Strides of the store's own arrays.
IndexStrides StoreStrides(const PoolView& pool) {
  const int64_t pages = pool.layout().pages(), d = pool.shape().head_dim;
  return {.codes = pages * d * kCodeBytes,
          .params = pages * d,
          .rows = pages * kPageTokens * 2 * d,
          .checks = pages * kPageTokens};
}

IndexStrides DevicePages::Strides(const PoolView& pool) const {
  IndexStrides strides = StoreStrides(pool);
  if (place_ == IndexPlace::kStore) return strides;
  strides.codes = int64_t{head_dim_} * kCodeBytes;
  strides.params = head_dim_;
  return strides;
}

absl::Status DevicePages::Extend(const SealedPages& sealed) {
  const auto [ours, theirs] =
      std::mismatch(ids_.begin(), ids_.end(), sealed.pages.begin(), sealed.pages.end());
  const auto kept = static_cast<size_t>(ours - ids_.begin());
  if (kept == ids_.size() && theirs == sealed.pages.end()) return absl::OkStatus();
  ids_.resize(kept);
  pages_.resize(kept);
  if (place_ == IndexPlace::kSketch) sketches_.resize(kept);
  for (auto page = theirs; page != sealed.pages.end(); ++page) {
    const PoolView& pool = *sealed.pool;
    ids_.push_back(*page);
    pages_.push_back({.codes = pool.Index(0, 0, *page),
                      .scale = pool.IndexScale(0, 0, *page),
                      .min = pool.IndexMin(0, 0, *page),
                      .rows = reinterpret_cast<const uint16_t*>(pool.Rows(0, 0, *page)),
                      .checks = pool.RowChecks(0, 0, *page)});
  }
  if (place_ == IndexPlace::kSketch) TS_RETURN_IF_ERROR(CopyNewPages(kept, *sealed.pool));
  return UploadTable();
}

absl::Status DevicePages::CopyNewPages(size_t first, const PoolView& pool) {
  std::vector<std::byte*> to;
  for (size_t p = first; p < pages_.size(); ++p) {
    auto sketch = backend_->Allocate(SketchBytes(slices_, head_dim_), MemoryKind::kSketch);
    if (!sketch.ok()) {  // what is covered stays whole
      ids_.resize(first);
      pages_.resize(first);
      sketches_.resize(first);
      return sketch.status();
    }
    to.push_back(sketch->data());
    sketches_.push_back(*std::move(sketch));
  }
  backend_->device_select()->CopyIndex(std::span(pages_).subspan(first), StoreStrides(pool),
                                       slices_, head_dim_, to);
  for (size_t p = first; p < pages_.size(); ++p) {
    pages_[p] = SketchPage(pages_[p], sketches_[p].data(), slices_, head_dim_);
  }
  return absl::OkStatus();
}

absl::Status DevicePages::UploadTable() {
  const auto pages = std::as_bytes(std::span(pages_));
  const auto bytes = static_cast<int64_t>(pages.size());
  if (table_.bytes() < bytes) {
    TS_ASSIGN_OR_RETURN(table_, backend_->Allocate(2 * bytes));
  }
  backend_->Upload(pages, table_.data());
  return absl::OkStatus();
}

// The row caches of all layers of one sequence.
class RowCaches {
 public:
  RowCaches(Backend* backend, const PoolShape& shape, int32_t slots)
      : backend_(backend),
        kv_heads_(shape.kv_heads),
        head_dim_(shape.head_dim),
        slots_(slots),
        all_slots_(int64_t{IndexSlices(shape)} * slots),
        bytes_(RowCacheBytes(shape, slots)) {}

  // Errors: ResourceExhausted.
  absl::Status EnsureRoom() {
    if (slots_ == 0 || memory_.bytes() > 0) return absl::OkStatus();
    TS_ASSIGN_OR_RETURN(memory_, backend_->Allocate(bytes_, MemoryKind::kRowCache));
    return absl::OkStatus();
  }
  void Clear() {
    if (memory_.bytes() == 0) return;
    const std::vector<std::byte> empty(all_slots_ * sizeof(int32_t));
    backend_->Upload(empty, Tags());
  }
  RowCache Of(int32_t sparse_rank) {
    if (slots_ == 0) return {};
    const int64_t first = int64_t{sparse_rank} * kv_heads_ * slots_;
    return {.rows = memory_.As<uint16_t>() + first * 2 * head_dim_,
            .tags = Tags() + first,
            .used = reinterpret_cast<uint32_t*>(Tags() + all_slots_) + first,
            .slots = slots_,
            .step = ++step_};
  }
  int64_t bytes() const { return memory_.bytes(); }

 private:
  int32_t* Tags() const {
    return reinterpret_cast<int32_t*>(memory_.As<uint16_t>() + all_slots_ * 2 * head_dim_);
  }

  Backend* backend_;
  const int32_t kv_heads_, head_dim_, slots_;
  const int64_t all_slots_, bytes_;
  uint32_t step_ = 0;
  DeviceBuffer memory_;  // rows of all slots, then their tags, then their last uses
};

class DeviceFetcher final : public RowFetcher {
 public:
  DeviceFetcher(Backend* backend, const PoolShape& shape, LayerParams params, IndexPlace place,
                int32_t row_cache_rows)
      : backend_(backend),
        kv_heads_(shape.kv_heads),
        head_dim_(shape.head_dim),
        params_(std::move(params)),
        kmax_(shape),
        pages_(backend, shape, place),
        row_caches_(backend, shape, row_cache_rows) {}

  QueryIn query_in() const override { return QueryIn::kDevice; }
  void SetDoublings(int32_t doublings) override { params_.SetDoublings(doublings); }
  int64_t sketch_bytes() const override { return pages_.sketch_bytes(); }
  int64_t row_cache_bytes() const override { return row_caches_.bytes(); }
  int64_t cached_rows() const override { return cached_rows_; }

  absl::Status Extend(const SealedPages& sealed) override {
    if (!sealed.pages.empty()) TS_RETURN_IF_ERROR(row_caches_.EnsureRoom());
    if (!pages_.Continues(sealed)) row_caches_.Clear();
    TS_RETURN_IF_ERROR(pages_.Extend(sealed));
    kmax_.Extend(*sealed.pool, sealed.pages);
    return absl::OkStatus();
  }

  absl::Status Post(int32_t layer, const SealedPages& sealed, std::span<const float> q) override {
    TS_CHECK(posted_.size() < kMaxPosted);  // a third would overwrite the first
    TS_RETURN_IF_ERROR(Extend(sealed));
    DeviceSelection selection = SelectionOf(layer, sealed, q);
    next_ ^= 1;
    Answer& answer = answers_[next_];
    answer.count = selection.Count();
    TS_RETURN_IF_ERROR(MakeRoom(answer));
    selection.tokens = answer.tokens.As<int32_t>();
    selection.rows = answer.rows.As<BFloat16>();
    selection.report = report_.As<GatherReport>();
    selection.cache = row_caches_.Of(sealed.pool->layout().SparseRank(layer));
    backend_->device_select()->Select(selection);
    selected_ = true;
    posted_.push_back({layer, next_});
    return absl::OkStatus();
  }

  absl::Status Settle() override {
    if (!selected_) return absl::OkStatus();
    selected_ = false;
    GatherReport report;
    backend_->Download(report_.data(), std::as_writable_bytes(std::span(&report, 1)));
    cached_rows_ += report.cached_rows;
    const GatherReport none;
    backend_->Upload(std::as_bytes(std::span(&none, 1)), report_.data());
    if (report.bad_rows == 0) return absl::OkStatus();
    row_caches_.Clear();
    return absl::DataLossError(absl::StrCat("row check of layer ", report.bad_slice / kv_heads_,
                                            " head ", report.bad_slice % kv_heads_, " token ",
                                            report.bad_token));
  }

  absl::StatusOr<SelectedRows> Take(int32_t layer) override {
    TS_CHECK(!posted_.empty() && posted_.front().layer == layer);
    const Answer& answer = answers_[posted_.front().slot];
    posted_.pop_front();
    const size_t tokens = static_cast<size_t>(kv_heads_) * answer.count;
    return SelectedRows{.count = answer.count,
                        .tokens = {answer.tokens.As<const int32_t>(), tokens},
                        .rows = {answer.rows.As<const BFloat16>(), tokens * 2 * head_dim_}};
  }

 private:
  struct Answer {
    int32_t count = 0;
    DeviceBuffer tokens, rows;
  };
  struct Posted {
    int32_t layer;
    int slot;
  };

  DeviceSelection SelectionOf(int32_t layer, const SealedPages& sealed,
                              std::span<const float> q) const {
    const SelectParams params = params_.Of(layer);
    const int32_t rank = sealed.pool->layout().SparseRank(layer);
    const size_t channels = static_cast<size_t>(kv_heads_) * head_dim_;
    return {
        .q = {q.data(), 1, static_cast<int64_t>(q.size())},
        .kv_heads = kv_heads_,
        .head_dim = head_dim_,
        .rule = params.group == GroupRule::kMean ? ScoreRule::kMeanQuery : ScoreRule::kHeadsVote,
        .channels = params.channels,
        .top_k = params.top_k,
        .sink_tokens = params.sink_tokens,
        .rescore_extra = params.rescore_extra,
        .kmax = {kmax_.Of(rank, 0).data(), channels},  // the heads lie side by side
        .pages = pages_.table(),
        .page_count = static_cast<int32_t>(sealed.pages.size()),
        .strides = pages_.Strides(*sealed.pool),
        .index_slice = rank * kv_heads_,
        .row_slice = layer * kv_heads_};
  }

  absl::Status MakeRoom(Answer& answer) {
    if (report_.bytes() == 0) {
      TS_ASSIGN_OR_RETURN(report_, backend_->Allocate(sizeof(GatherReport)));
    }
    const int64_t tokens = int64_t{kv_heads_} * answer.count;
    const int64_t row = int64_t{2} * head_dim_ * static_cast<int64_t>(sizeof(BFloat16));
    if (answer.rows.bytes() >= tokens * row) return absl::OkStatus();
    TS_ASSIGN_OR_RETURN(answer.tokens,
                        backend_->Allocate(tokens * static_cast<int64_t>(sizeof(int32_t))));
    TS_ASSIGN_OR_RETURN(answer.rows, backend_->Allocate(tokens * row));
    return absl::OkStatus();
  }

  Backend* backend_;
  const int32_t kv_heads_, head_dim_;
  LayerParams params_;
  RunningKmax kmax_;
  DevicePages pages_;
  RowCaches row_caches_;
  std::array<Answer, kMaxPosted> answers_;  // the one in use and the one posted ahead
  int next_ = 0;
  std::deque<Posted> posted_;
  DeviceBuffer report_;
  bool selected_ = false;  // since Settle
  int64_t cached_rows_ = 0;
};

}  // namespace

Selector RunnableSelector(Selector asked, Backend& backend) {
  const bool needs_kernels = asked == Selector::kSketch || asked == Selector::kDevice;
  return needs_kernels && backend.device_select() == nullptr ? Selector::kInline : asked;
}

int64_t SketchPageBytes(const PoolShape& shape) {
  return SketchBytes(IndexSlices(shape), shape.head_dim);
}

int64_t RowCacheBytes(const PoolShape& shape, int32_t rows) {
  const int64_t row = int64_t{2} * shape.head_dim * static_cast<int64_t>(sizeof(BFloat16));
  return int64_t{IndexSlices(shape)} * rows * (row + 2 * static_cast<int64_t>(sizeof(int32_t)));
}

std::unique_ptr<RowFetcher> MakeDeviceFetcher(Backend* backend, const PoolShape& shape,
                                              const SelectParams& params,
                                              std::vector<int32_t> layer_top_k, IndexPlace place,
                                              int32_t row_cache_rows) {
  TS_CHECK(backend->device_select() != nullptr && row_cache_rows % kRowCacheWays == 0);
  return std::make_unique<DeviceFetcher>(
      backend, shape, LayerParams(params, std::move(layer_top_k)), place, row_cache_rows);
}

}  // namespace tailor
