// Every token in full precision in worker memory: the uncompressed baseline. Pages come in blocks,
// one for all that a turn adds, so that a head's rows are few segments.
#pragma once

#include <vector>

#include "worker/cache/layer_cache.h"

namespace tailor {

class FullCache final : public LayerCache {
 public:
  FullCache(Backend* backend, int32_t layer, const PoolShape& shape);

  absl::Status Extend(const PagedRows& rows) override;
  void NewRows(int64_t position, std::span<BFloat16*> out) override;
  void Attend(const AttendCall& call, AttendScratch& scratch) override;
  absl::Status Seal(const PagedRows& rows, int64_t page) override;
  LayerBytes bytes() const override;

 private:
  struct Block {
    int64_t first_page = 0, pages = 0;
    DeviceBuffer rows;  // [kv_heads][pages * page_tokens][2][head_dim] bf16

    int64_t first() const { return first_page * kPageTokens; }
    int64_t end() const { return (first_page + pages) * kPageTokens; }
  };

  absl::Status EnsurePages(int64_t pages);
  int64_t held_pages() const;
  const Block& BlockOf(int64_t position) const;
  BFloat16* Row(const Block& block, int32_t kv_head, int64_t position) const;

  Backend* backend_;
  int32_t layer_, kv_heads_, head_dim_;
  int64_t loaded_tokens_ = 0;
  std::vector<Block> blocks_;  // of pages 0, 1, ... without a gap
};

}  // namespace tailor
