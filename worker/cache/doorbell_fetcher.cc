#include "worker/cache/doorbell_fetcher.h"

#include <deque>
#include <string>
#include <utility>

#include "common/log.h"
#include "common/status.h"
#include "worker/cache/layer_params.h"

namespace tailor {
namespace {

class DoorbellFetcher final : public RowFetcher {
 public:
  DoorbellFetcher(DoorbellLine* line, LayerParams params)
      : line_(line), params_(std::move(params)) {}
  ~DoorbellFetcher() override { line_->Abandon(*account_); }

  void SetDoublings(int32_t doublings) override { params_.SetDoublings(doublings); }
  QueryIn query_in() const override { return QueryIn::kDevice; }

  absl::Status Post(int32_t layer, const SealedPages& sealed, std::span<const float> q) override {
    TS_CHECK(posted_.size() < kMaxPosted);
    const SelectCall call = {.sequence = sealed.sequence,
                             .layer = layer,
                             .sealed_pages = static_cast<int64_t>(sealed.pages.size()),
                             .q = {},
                             .params = params_.Of(layer)};
    TS_ASSIGN_OR_RETURN(const DoorbellLine::Posted posted, line_->Post(account_, call, q));
    posted_.push_back({layer, posted});
    return absl::OkStatus();
  }

  absl::StatusOr<SelectedRows> Take(int32_t layer) override {
    TS_CHECK(!posted_.empty() && posted_.front().layer == layer);
    const DoorbellLine::Posted posted = posted_.front().posted;
    posted_.pop_front();
    line_->Await(posted.number);
    return posted.answer;
  }

  absl::Status Settle() override { return line_->Settle(*account_); }

 private:
  struct LayerPost {
    int32_t layer;
    DoorbellLine::Posted posted;
  };
  DoorbellLine* const line_;
  LayerParams params_;
  const std::shared_ptr<DoorbellLine::Account> account_ = std::make_shared<DoorbellLine::Account>();
  std::deque<LayerPost> posted_;
};

absl::StatusOr<std::unique_ptr<DoorbellLine>> TryOpenLine(Backend* backend, KvClient* store,
                                                          int64_t query_floats) {
  PromisedSelects* const selects = store->promised_selects();
  if (selects == nullptr) return absl::UnimplementedError("the store grants no memory for answers");
  for (const std::span<std::byte> memory : selects->AnswerMemory()) {
    TS_RETURN_IF_ERROR(backend->MapHostMemory(memory));
  }
  return DoorbellLine::Make(backend->doorbell(), selects, query_floats, {});
}

}  // namespace

std::unique_ptr<DoorbellLine> OpenDoorbellLine(Backend* backend, KvClient* store,
                                               const LayerPolicy& policy, int64_t query_floats) {
  if (policy.selector != Selector::kStore || backend->doorbell() == nullptr) return nullptr;
  auto line = TryOpenLine(backend, store, query_floats);
  if (line.ok()) return *std::move(line);
  spdlog::warn("no doorbell, every selection waits for the device: {}",
               std::string(line.status().message()));
  return nullptr;
}

std::unique_ptr<RowFetcher> MakeDoorbellFetcher(DoorbellLine* line, const SelectParams& params,
                                                std::vector<int32_t> layer_top_k) {
  return std::make_unique<DoorbellFetcher>(line, LayerParams(params, std::move(layer_top_k)));
}

}  // namespace tailor
