#include "worker/quality/choosing_fetcher.h"

#include <algorithm>

#include "common/status.h"

namespace tailor {

const BFloat16* HeadChoice::Key(int32_t token) const {
  return pool->Rows(layer, kv_head, pages[token / kPageTokens]) +
         int64_t{token % kPageTokens} * 2 * head_dim();
}

float DotKey(std::span<const float> q, const BFloat16* key) {
  constexpr size_t kLanes = 16;  // partial sums that the compiler keeps in a vector
  float lanes[kLanes] = {};
  for (size_t c = 0; c < q.size(); c += kLanes) {
    for (size_t i = 0; i < kLanes; ++i) lanes[i] += q[c + i] * ToFloat(key[c + i]);
  }
  float sum = 0;
  for (const float lane : lanes) sum += lane;
  return sum;
}

absl::Status ChoosingFetcher::Post(int32_t layer, const SealedPages& sealed,
                                   std::span<const float> q) {
  TS_CHECK(posted_.size() < kMaxPosted);
  posted_.push_back({layer, sealed, {q.begin(), q.end()}});
  return absl::OkStatus();
}

absl::StatusOr<SelectedRows> ChoosingFetcher::Take(int32_t layer) {
  TS_CHECK(!posted_.empty() && posted_.front().layer == layer);
  const Posted posted = std::move(posted_.front());
  posted_.pop_front();
  const PoolShape& shape = posted.sealed.pool->shape();
  const int32_t first = params_.sink_tokens;
  const int32_t end = static_cast<int32_t>(posted.sealed.pages.size()) * kPageTokens;
  taken_.count = std::clamp(end - first, 0, params_.top_k);
  taken_.tokens.resize(int64_t{shape.kv_heads} * taken_.count);
  taken_.rows.resize(taken_.tokens.size() * 2 * shape.head_dim);
  if (taken_.count == 0) return SelectedRows{};
  const size_t head_floats = posted.q.size() / shape.kv_heads;
  backend_->RunOnHost(shape.kv_heads, [&](int64_t head, int) {
    const std::span<int32_t> tokens(taken_.tokens.data() + head * taken_.count, taken_.count);
    ChooseHead({.pool = posted.sealed.pool,
                .pages = posted.sealed.pages,
                .layer = layer,
                .kv_head = static_cast<int32_t>(head),
                .q = std::span(posted.q).subspan(head * head_floats, head_floats),
                .first = first,
                .end = end,
                .count = taken_.count},
               tokens);
    std::sort(tokens.begin(), tokens.end());
  });
  const SelectInput input = {.pool = posted.sealed.pool,
                             .layer = layer,
                             .sealed_pages = posted.sealed.pages,
                             .kmax = nullptr,
                             .q = posted.q,
                             .params = params_};
  TS_RETURN_IF_ERROR(Gather(input, &taken_));
  return SelectedRows{.count = taken_.count, .tokens = taken_.tokens, .rows = taken_.rows};
}

}  // namespace tailor
