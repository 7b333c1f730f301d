#include "worker/ops/cuda/device_pool.h"

#include <algorithm>
#include <iterator>

#include "common/status.h"

namespace tailor::cuda {

DevicePool::DevicePool(std::byte* base, int64_t bytes)
    : base_(base), capacity_(bytes / kAlignment * kAlignment), free_bytes_(capacity_) {
  if (capacity_ > 0) holes_[0] = capacity_;
}

bool DevicePool::Contains(const std::byte* data) const {
  const auto at = reinterpret_cast<uintptr_t>(data), first = reinterpret_cast<uintptr_t>(base_);
  return at >= first && at - first < static_cast<uintptr_t>(capacity_);
}

int64_t DevicePool::largest_hole() const {
  int64_t largest = 0;
  for (const auto& [offset, bytes] : holes_) largest = std::max(largest, bytes);
  return largest;
}

absl::StatusOr<std::byte*> DevicePool::Allocate(int64_t bytes, int kind) {
  TS_CHECK(bytes >= 0 && kind >= 0 && kind < kKinds);
  auto best = holes_.end();
  const bool possible = bytes <= free_bytes_;
  const int64_t take =
      possible ? std::max((bytes + kAlignment - 1) / kAlignment * kAlignment, kAlignment) : 0;
  for (auto hole = holes_.begin(); possible && hole != holes_.end(); ++hole) {
    if (hole->second >= take && (best == holes_.end() || hole->second < best->second)) best = hole;
  }
  if (best == holes_.end()) {
    std::string message = absl::StrCat("device memory: ", bytes, " bytes asked, ", free_bytes_,
                                       " free of ", capacity_);
    if (possible) absl::StrAppend(&message, ", at most ", largest_hole(), " in one piece");
    return absl::ResourceExhaustedError(message);
  }
  const int64_t offset = best->first, rest = best->second - take;
  holes_.erase(best);
  if (rest > 0) holes_[offset + take] = rest;
  pieces_[offset] = {take, bytes, kind};
  free_bytes_ -= take;
  asked_bytes_ += bytes;
  by_kind_[kind] += take;
  peak_by_kind_[kind] = std::max(peak_by_kind_[kind], by_kind_[kind]);
  peak_ = std::max(peak_, capacity_ - free_bytes_);
  return base_ + offset;
}

void DevicePool::Free(std::byte* data) {
  const auto piece = pieces_.find(data - base_);
  TS_CHECK(piece != pieces_.end());
  const auto [bytes, asked, kind] = piece->second;
  int64_t offset = piece->first, length = bytes;
  pieces_.erase(piece);
  free_bytes_ += bytes;
  asked_bytes_ -= asked;
  by_kind_[kind] -= bytes;
  auto next = holes_.lower_bound(offset);
  if (next != holes_.end() && next->first == offset + length) {
    length += next->second;
    next = holes_.erase(next);
  }
  if (next != holes_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == offset) {
      before->second += length;
      return;
    }
  }
  holes_[offset] = length;
}

}  // namespace tailor::cuda
