// Every token in full precision in worker memory: the uncompressed baseline.
#pragma once

#include "worker/cache/layer_cache.h"
#include "worker/cache/resident_window.h"

namespace tailor {

class FullCache final : public LayerCache {
 public:
  FullCache(Backend* backend, int32_t layer, const PoolShape& shape);

  absl::Status Extend(const PagedRows& rows) override;
  void NewRows(int64_t position, std::span<BFloat16*> out) override;
  void Attend(const AttendCall& call, AttendScratch& scratch) override;
  absl::Status Seal(const PagedRows& rows, int64_t page) override;
  LayerBytes bytes() const override { return {.codes = 0, .resident = rows_.bytes()}; }

 private:
  Backend* backend_;
  int32_t layer_, kv_heads_, head_dim_;
  int64_t loaded_tokens_ = 0;
  ResidentWindow rows_;
};

}  // namespace tailor
