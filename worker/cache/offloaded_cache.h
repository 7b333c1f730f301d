// A sparse layer: only sink, window and the pages' mean rows are resident; the dominant tokens'
// rows come with each call. ALGORITHM §3.1, §3.5.
#pragma once

#include <optional>

#include "worker/cache/layer_cache.h"
#include "worker/cache/mean_rows.h"
#include "worker/cache/resident_window.h"

namespace tailor {

class OffloadedCache final : public LayerCache {
 public:
  // tail_gain: of LayerPolicy, empty where the tail is left out.
  OffloadedCache(Backend* backend, int32_t layer, const PoolShape& shape, int32_t sink_tokens,
                 int64_t window_slots, std::optional<float> tail_gain = {});

  absl::Status Extend(const PagedRows& rows) override;
  absl::Status LoadSealed(const PagedRows& rows) override;
  void NewRows(int64_t position, std::span<BFloat16*> out) override;
  // One exact softmax over sink, call.fetched and the window; in `out`, not in `lse`, the mean rows
  // stand for the tokens of sealed pages that were not fetched.
  void Attend(const AttendCall& call, AttendScratch& scratch) override;
  absl::Status Seal(const PagedRows& rows, int64_t page) override;
  LayerBytes bytes() const override;

 private:
  // Makes room for the sink, and adds what fills it.
  absl::Status AddSink(const PagedRows& rows, CopyList* copies);
  BFloat16* SinkRows(int32_t kv_head) const {
    return sink_.As<BFloat16>() + int64_t{kv_head} * sink_tokens_ * 2 * head_dim_;
  }

  Backend* backend_;
  int32_t layer_, kv_heads_, head_dim_, sink_tokens_;
  std::optional<float> tail_gain_;
  int64_t window_slots_;
  int64_t sealed_pages_ = 0;
  DeviceBuffer sink_;  // [kv_heads][sink_tokens][2][head_dim], once page 0 is sealed
  ResidentWindow window_;
  MeanRows means_;
};

}  // namespace tailor
