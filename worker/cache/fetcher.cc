#include "worker/cache/fetcher.h"

#include <algorithm>
#include <array>
#include <deque>
#include <utility>
#include <vector>

#include "common/status.h"
#include "worker/cache/layer_params.h"

namespace tailor {
namespace {

class InlineFetcher final : public RowFetcher {
 public:
  InlineFetcher(Backend* backend, const PoolShape& shape, LayerParams params)
      : backend_(backend),
        params_(std::move(params)),
        kmax_(shape),
        scratch_(backend->host_threads()),
        head_status_(shape.kv_heads) {}

  void SetDoublings(int32_t doublings) override { params_.SetDoublings(doublings); }

  absl::Status Post(int32_t layer, const SealedPages& sealed, std::span<const float> q) override {
    TS_CHECK(posted_.size() < kMaxPosted);  // a third would overwrite the first
    kmax_.Extend(*sealed.pool, sealed.pages);
    next_ ^= 1;
    Selection& selection = selections_[next_];
    const SelectInput input = {.pool = sealed.pool,
                               .layer = layer,
                               .sealed_pages = sealed.pages,
                               .kmax = &kmax_,
                               .q = q,
                               .params = params_.Of(layer)};
    PrepareSelection(input, &selection);
    backend_->RunOnHost(static_cast<int64_t>(head_status_.size()), [&](int64_t head, int worker) {
      SelectHead(input, static_cast<int32_t>(head), scratch_[worker], &selection);
      head_status_[head] = GatherHead(input, static_cast<int32_t>(head), &selection);
    });
    for (const absl::Status& status : head_status_) TS_RETURN_IF_ERROR(status);
    posted_.push_back({layer, next_});
    return absl::OkStatus();
  }

  absl::StatusOr<SelectedRows> Take(int32_t layer) override {
    TS_CHECK(!posted_.empty() && posted_.front().layer == layer);
    const Selection& selection = selections_[posted_.front().slot];
    posted_.pop_front();
    return SelectedRows{
        .count = selection.count, .tokens = selection.tokens, .rows = selection.rows};
  }

 private:
  struct Posted {
    int32_t layer;
    int slot;
  };
  Backend* backend_;
  LayerParams params_;
  RunningKmax kmax_;
  std::vector<SelectScratch> scratch_;            // [threads]
  std::vector<absl::Status> head_status_;         // [kv_heads]
  std::array<Selection, kMaxPosted> selections_;  // the one in use and the one posted ahead
  int next_ = 0;
  std::deque<Posted> posted_;
};

class StoreFetcher final : public RowFetcher {
 public:
  StoreFetcher(KvClient* store, LayerParams params) : store_(store), params_(std::move(params)) {}

  void SetDoublings(int32_t doublings) override { params_.SetDoublings(doublings); }

  absl::Status Post(int32_t layer, const SealedPages& sealed, std::span<const float> q) override {
    TS_CHECK(posted_.size() < kMaxPosted);
    TS_ASSIGN_OR_RETURN(
        const uint64_t ticket,
        store_->PostSelect({.sequence = sealed.sequence,
                            .layer = layer,
                            .sealed_pages = static_cast<int64_t>(sealed.pages.size()),
                            .q = q,
                            .params = params_.Of(layer)}));
    posted_.push_back({layer, ticket});
    return absl::OkStatus();
  }

  absl::StatusOr<SelectedRows> Take(int32_t layer) override {
    TS_CHECK(!posted_.empty() && posted_.front().layer == layer);
    const uint64_t ticket = posted_.front().ticket;
    posted_.pop_front();
    return store_->FinishSelect(ticket);
  }

 private:
  struct Posted {
    int32_t layer;
    uint64_t ticket;
  };
  KvClient* store_;
  LayerParams params_;
  std::deque<Posted> posted_;
};

}  // namespace

std::unique_ptr<RowFetcher> MakeInlineFetcher(Backend* backend, const PoolShape& shape,
                                              const SelectParams& params,
                                              std::vector<int32_t> layer_top_k) {
  return std::make_unique<InlineFetcher>(backend, shape,
                                         LayerParams(params, std::move(layer_top_k)));
}

std::unique_ptr<RowFetcher> MakeStoreFetcher(KvClient* store, const SelectParams& params,
                                             std::vector<int32_t> layer_top_k) {
  return std::make_unique<StoreFetcher>(store, LayerParams(params, std::move(layer_top_k)));
}

}  // namespace tailor
