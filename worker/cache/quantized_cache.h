// A quantized layer: sealed pages as codes, the rest as full-precision residual. ALGORITHM §2.
// Keys and values leave the residual by page, never before the residual holds a whole page beyond
// the newest `window` tokens.
#pragma once

#include "worker/cache/layer_cache.h"
#include "worker/cache/resident_window.h"

namespace tailor {

class QuantizedCache final : public LayerCache {
 public:
  QuantizedCache(Backend* backend, int32_t layer, const PoolShape& shape, int32_t bits,
                 int64_t window_slots);

  absl::Status Extend(const PagedRows& rows) override;
  void NewRows(int64_t position, std::span<BFloat16*> out) override;
  void Attend(const AttendCall& call, AttendScratch& scratch) override;
  absl::Status Seal(const PagedRows& rows, int64_t page) override;
  LayerBytes bytes() const override;

 private:
  absl::Status AppendPage(const PagedRows& rows, int64_t page);

  Backend* backend_;
  int32_t layer_, kv_heads_;
  QuantizedPageShape shape_;
  int64_t window_slots_;
  std::vector<DeviceBuffer> codes_;  // [pages], each [kv_heads][shape.PageBytes()]
  ResidentWindow residual_;
};

}  // namespace tailor
